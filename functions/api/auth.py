"""Who calls, and what is theirs: decided here for every route, whether API keys are on or off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from fastapi import Request

from functions.api.keys import PREFIX, ApiKey, ApiKeyFile
from tasks.accept import find_card, find_lane
from tasks.capabilities import ServedModel
from tasks.errors import KeyInUrl, NotAllowedByKey, Unauthorized, UnknownLane, UnknownModel
from tasks.task import GenerateRequest, Task


@dataclass(frozen=True)
class Caller:
    """Somebody with a key, or, with keys off, anybody."""

    key: ApiKey | None = None

    def owns(self, task: Task) -> bool:
        """Whether the task is the caller's to see and to cancel."""
        return self.key is None or task.user_id == self.key.user

    def usable(self, cards: Mapping[str, ServedModel]) -> dict[str, ServedModel]:
        """The models the caller may use. A key that names an alias may use the model behind it."""
        allowed = self.key.models if self.key else None
        return {
            model: card
            for model, card in cards.items()
            if allowed is None or not {model, *card.aliases}.isdisjoint(allowed)
        }

    def request(
        self, asked: GenerateRequest, cards: Mapping[str, ServedModel], lanes: Sequence[str]
    ) -> GenerateRequest:
        """The request as the caller may make it: in the key's name, on a lane and a model of the key's.

        Raises NotAllowedByKey naming what the key may use.
        """
        if self.key is None:
            return asked
        if "user_id" in asked.model_fields_set and asked.user_id != self.key.user:
            raise NotAllowedByKey("The key is another user's.", field="user_id", allowed=[self.key.user])
        if self.key.models is not None:
            self._check_model(asked.model_name, cards, self.key.models)
        lane = asked.topic
        if self.key.lanes is not None:
            lane = _lane_of(asked.topic, lanes, self.key.lanes)
        return asked.model_copy(update={"user_id": self.key.user, "topic": lane})

    def _check_model(self, name: str, cards: Mapping[str, ServedModel], allowed: Sequence[str]) -> None:
        try:
            find_card(name, self.usable(cards))
        except UnknownModel as error:
            if name in allowed:
                raise
            told = sorted({*allowed, *(error.allowed or ())})
            raise NotAllowedByKey(
                f"The key may use the models {', '.join(told)}.", field="model_name", allowed=told
            ) from None


def _lane_of(name: str | None, lanes: Sequence[str], allowed: Sequence[str]) -> str:
    mine = [lane for lane in lanes if lane in allowed or lane.rpartition(".")[2] in allowed]
    try:
        if mine:
            return find_lane(name, mine)
    except UnknownLane:
        pass
    told = mine or list(allowed)
    raise NotAllowedByKey(f"The key may use the lanes {', '.join(told)}.", field="topic", allowed=told)


class Authenticator:
    """Tells who calls."""

    def __init__(self, keys: ApiKeyFile | None) -> None:
        """None: keys are off, and everybody may do everything."""
        self._keys = keys

    @property
    def closed(self) -> bool:
        """Whether a key is needed."""
        return self._keys is not None

    def caller(self, request: Request) -> Caller:
        """Who calls. Raises KeyInUrl, Unauthorized."""
        if self._keys is None:
            return Caller()
        # Not request.url: that is made with the Host header, which anybody may write anything into.
        if PREFIX in request.scope["path"] or PREFIX in unquote(request.scope["query_string"].decode("latin-1")):
            raise KeyInUrl
        presented = _presented(request)
        if len(presented) > 1:
            raise Unauthorized("The request has two different keys.")
        for one in presented:
            if key := self._keys.find(one):
                return Caller(key)
            raise Unauthorized("The key is not known, or no longer.")
        raise Unauthorized


def _presented(request: Request) -> set[str]:
    found = {value.strip() for value in request.headers.getlist("x-api-key")}
    for value in request.headers.getlist("authorization"):
        scheme, _, credentials = value.strip().partition(" ")
        # Another scheme may be for a proxy on the way.
        if scheme.lower() == "bearer":
            found.add(credentials.strip())
    return found
