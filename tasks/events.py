"""All that can be said about a task once it is on a lane.

Events of a kind we do not know (a newer version wrote them) are skipped; unknown fields are ignored.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tasks.task import Task

EndStatus = Literal["completed", "failed", "canceled", "expired"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    at: float = Field(description="Unix seconds on the writer's clock; never compared across machines.")


class Started(_Event):
    """An owner took the task and hands it to a runner: attempt n (from 1) runs."""

    kind: Literal["started"] = "started"
    attempt: int
    owner: str


class Progress(_Event):
    """The attempt is alive; `step` of `steps` are done. It is also the lease (see tasks.lease)."""

    kind: Literal["progress"] = "progress"
    attempt: int
    owner: str
    step: int
    steps: int


class Released(_Event):
    """The attempt is over without an outcome and the task is queued again, not before `delay` seconds have passed."""

    kind: Literal["released"] = "released"
    attempt: int
    owner: str
    code: str = ""
    delay: float = 0.0
    counts: bool = Field(default=True, description="False: the attempt was given back and does not count.")


class CancelRequested(_Event):
    """Somebody wants it gone; the owner decides."""

    kind: Literal["cancel_requested"] = "cancel_requested"


class StoredImage(BaseModel):
    """One picture in the store; `key` is its name there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    content_type: str
    size: int
    sha256: str
    width: int
    height: int
    seed: int


class TaskFailure(BaseModel):
    """Why a task ended without a picture."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str


class Timings(BaseModel):
    """Seconds of each stage, as the owner measured them; None: it never came to that."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    queued: float | None = None
    loading: float | None = None
    generating: float | None = None
    storing: float | None = None


class Outcome(_Event):
    """How the task ended. Said once; holds all that a status needs when the log has forgotten the task."""

    kind: Literal["outcome"] = "outcome"
    status: EndStatus
    attempt: int = Field(description="How many attempts were really made.")
    task: Task
    images: tuple[StoredImage, ...] = ()
    error: TaskFailure | None = None
    timings: Timings = Timings()
    acceleration: dict[str, str] = Field(default_factory=dict)


Event = Annotated[Started | Progress | Released | CancelRequested | Outcome, Field(discriminator="kind")]
KINDS = frozenset({"started", "progress", "released", "cancel_requested", "outcome"})
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


class _Kind(BaseModel):
    kind: str


def parse_event(value: bytes) -> Event | None:
    """The event, or None for a kind this version does not know. Raises pydantic.ValidationError on anything else."""
    if _Kind.model_validate_json(value).kind not in KINDS:
        return None
    return _ADAPTER.validate_json(value)


def event_key(event: Event) -> str:
    """The record key: compaction keeps the last record of a key, so only an outcome may have the task's own."""
    match event:
        case Outcome():
            return event.task_id
        case CancelRequested():
            return f"{event.task_id}/cancel"
        case _:
            return f"{event.task_id}/live"
