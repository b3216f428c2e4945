"""The events of a task, which follow its record in the log: the owner writes them, and a caller's cancel is one too.

An event of a kind that only a newer version knows is skipped, and unknown fields are ignored. Unknown fields of an
outcome are kept: a consumer that finds a stored outcome announces it unchanged, also if a newer version wrote it.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from tasks.task import Count, Task

EndStatus = Literal["completed", "failed", "canceled", "expired"]
OPEN = frozenset({"queued", "running"})


def _ends(status: str) -> str:
    if status in OPEN:
        raise ValueError(f"a task does not end as {status}")
    return status


AnyEnd = Annotated[str, AfterValidator(_ends)]
"""An EndStatus, or an end that only a newer version knows. In both cases the task has ended."""
_KEPT = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    task_id: str
    at: float = Field(description="Unix seconds on the writer's clock; never compared across machines.")


class Started(_Event):
    """A runner accepted the task: attempt number `attempt` (from 1) runs under this owner."""

    kind: Literal["started"] = "started"
    attempt: Count
    owner: str


class Progress(_Event):
    """The attempt is alive and has done `step` of `steps`. Every such event renews the lease (see tasks.lease)."""

    kind: Literal["progress"] = "progress"
    attempt: Count
    owner: str
    step: Count
    steps: Count


class Released(_Event):
    """The attempt ended without an outcome. The task is queued again and may start after `delay` seconds."""

    kind: Literal["released"] = "released"
    attempt: Count
    owner: str
    code: str = ""
    delay: float = Field(default=0.0, ge=0, le=604_800)
    counts: bool = Field(default=True, description="False: the attempt does not count as a try.")


class CancelRequested(_Event):
    """A caller asks for the task to be canceled; its owner acts on it."""

    kind: Literal["cancel_requested"] = "cancel_requested"


class StoredImage(BaseModel):
    """One image in the store; `key` is its name there."""

    model_config = _KEPT

    key: str
    content_type: str
    size: int
    sha256: str
    width: int
    height: int
    seed: int


class TaskFailure(BaseModel):
    """Why a task ended without an image."""

    model_config = _KEPT

    code: str
    message: str


class Timings(BaseModel):
    """Seconds of each stage, as the owner measured them; None: the task did not reach that stage."""

    model_config = _KEPT

    queued: float | None = None
    loading: float | None = None
    generating: float | None = None
    storing: float | None = None


class Outcome(_Event):
    """How the task ended. It holds everything that a status needs once Kafka has deleted the task's records.

    `tries` counts the attempts that count towards the retry limit; on the wire its name is `attempt`.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )

    kind: Literal["outcome"] = "outcome"
    status: AnyEnd
    tries: Count = Field(alias="attempt", description="How many attempts count towards the retry limit.")
    task: Task
    images: tuple[StoredImage, ...] = ()
    error: TaskFailure | None = None
    timings: Timings = Timings()
    acceleration: dict[str, Any] = Field(default_factory=dict)


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
    """The record key. Compaction keeps only the last record of a key, so the outcome has a key of its own: the task's
    id."""
    match event:
        case Outcome():
            return event.task_id
        case CancelRequested():
            return f"{event.task_id}/cancel"
        case _:
            return f"{event.task_id}/live"
