"""The caller of a request, and what it may see and request. The same for every face."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import NotAllowedByKey
from tasks.names import Permission
from tasks.task import GenerateRequest, Task


@dataclass(frozen=True)
class Caller:
    """A user with an API key, and the lanes and models of that key (None: all). With keys off `user` is None, and the
    caller may do everything. `address`: the client's, as limits count it."""

    user: str | None = None
    lanes: Sequence[str] | None = None
    models: Sequence[str] | None = None
    address: str = ""

    @property
    def permission(self) -> Permission:
        """The lanes and models that the caller may use."""
        return Permission(self.lanes, self.models)

    def owns(self, task: Task) -> bool:
        """Whether the caller may see and cancel the task."""
        return self.user is None or task.user_id == self.user

    def as_user(self, request: GenerateRequest) -> GenerateRequest:
        """The request with the key's user as its user. Raises NotAllowedByKey if it names another user."""
        if self.user is None:
            return request
        if "user_id" in request.model_fields_set and request.user_id != self.user:
            raise NotAllowedByKey("The key belongs to another user.", field="user_id", allowed=[self.user])
        return request.model_copy(update={"user_id": self.user})


ANYBODY = Caller()
"""The caller of every request while API keys are off."""
