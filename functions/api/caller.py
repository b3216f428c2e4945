"""The caller of a request, and what it may see and request. The same for every face."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.accept import find_lane, find_model
from tasks.capabilities import ServedModel
from tasks.errors import NotAllowedByKey, UnknownLane, UnknownModel
from tasks.task import GenerateRequest, Task


@dataclass(frozen=True)
class Caller:
    """A user with an API key, and the lanes and models of that key (None: all). With keys off `user` is None, and the
    caller may do everything. `address`: the client's, as limits count it."""

    user: str | None = None
    lanes: Sequence[str] | None = None
    models: Sequence[str] | None = None
    address: str = ""

    def owns(self, task: Task) -> bool:
        """Whether the caller may see and cancel the task."""
        return self.user is None or task.user_id == self.user

    def usable(self, models: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
        """The models that the caller may use. A key that names an alias may use the model behind it."""
        return {
            name: model
            for name, model in models.items()
            if self.models is None or not {name, *model.aliases}.isdisjoint(self.models)
        }

    def restrict(
        self, request: GenerateRequest, models: Mapping[str, ServedModel], lanes: Sequence[str]
    ) -> GenerateRequest:
        """The request with the key's user as its user, on a lane of the key.

        Raises NotAllowedByKey naming what the key may use, UnknownModel.
        """
        if self.user is None:
            return request
        if "user_id" in request.model_fields_set and request.user_id != self.user:
            raise NotAllowedByKey("The key belongs to another user.", field="user_id", allowed=[self.user])
        if self.models is not None:
            self._check_model(request.model_name, models, self.models)
        lane = request.topic
        if self.lanes is not None:
            lane = _allowed_lane(request.topic, lanes, self.lanes)
        return request.model_copy(update={"user_id": self.user, "topic": lane})

    def _check_model(self, name: str, models: Mapping[str, ServedModel], of_key: Sequence[str]) -> None:
        try:
            find_model(name, self.usable(models))
        except UnknownModel as error:
            if name in of_key:
                raise
            allowed = sorted({*of_key, *(error.allowed or ())})
            raise NotAllowedByKey(
                f"The key may use the models {', '.join(allowed)}.", field="model_name", allowed=allowed
            ) from None


ANYBODY = Caller()
"""The caller of every request while API keys are off."""


def _allowed_lane(name: str | None, lanes: Sequence[str], of_key: Sequence[str]) -> str:
    """The lane of this name, or the key's first lane. The lanes of a key may be full or short names."""
    usable = [lane for lane in lanes if lane in of_key or lane.rpartition(".")[2] in of_key]
    try:
        if usable:
            return find_lane(name, usable)
    except UnknownLane:
        pass
    allowed = usable or list(of_key)
    raise NotAllowedByKey(f"The key may use the lanes {', '.join(allowed)}.", field="topic", allowed=allowed)
