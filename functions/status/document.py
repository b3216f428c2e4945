"""What is known about one task, and the status document made from it, which every face answers with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from adapters.view import TaskView
from tasks.capabilities import ServedModel
from tasks.events import Outcome
from tasks.object_keys import media_type
from tasks.queues import Queues
from tasks.state import TaskState
from tasks.task import TASK_ID, Size, Task

_LATEST_DATE = 253_402_300_799.0
"""Unix seconds of the end of the year 9999, the last date that an RFC 3339 timestamp can hold."""
_STATUSES = ["queued", "running", "completed", "failed", "canceled", "expired"]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """One task at one moment. `partition` is None for a task that only the store still knows. `updated_at` is Unix
    seconds."""

    task: Task
    state: TaskState
    outcome: Outcome | None
    partition: int | None
    updated_at: float

    @classmethod
    def from_view(cls, row: TaskView | None) -> "TaskSnapshot | None":
        """The snapshot that a row of the view holds; None if the view does not know whose task it is.

        Anyone who can write to Kafka can write an event, or a record with an id that is used already. So an event does
        not say whose task it is, and neither does a record that contradicts it: only the stored outcome does then.
        """
        if row is None or row.task is None:
            return None
        if row.outcome is not None and row.outcome.task.user_id != row.task.user_id:
            return None
        updated_at = max(row.updated_at, row.task.created_at)
        return cls(row.task, row.state, row.outcome, row.partition, updated_at)

    @classmethod
    def from_outcome(cls, outcome: Outcome) -> "TaskSnapshot":
        """The snapshot of an ended task, made of its stored outcome alone."""
        state = TaskState(outcome.status, tries=outcome.tries)
        return cls(outcome.task, state, outcome, None, outcome.at)

    @classmethod
    def from_task(cls, task: Task) -> "TaskSnapshot":
        """The snapshot of a task that was appended just now."""
        return cls(task, TaskState(), None, None, task.created_at)


class Links(Protocol):
    """Where a client finds a task's status and images."""

    def status(self, task_id: str) -> str:
        """The URL of the status document."""
        ...

    def image(self, task_id: str, index: int | None = None) -> str:
        """The URL of the image of this index; without one, of the task's first image."""
        ...

    def preview(self, task_id: str) -> str:
        """The URL of the task's newest preview."""
        ...


class TaskProgress(BaseModel):
    """How far the current attempt is."""

    step: int = Field(description="Steps that are done.")
    steps: int = Field(description="Steps in all.")


class TaskImage(BaseModel):
    """One image of a completed task."""

    url: str = Field(description="Where to download it.")
    index: int = Field(description="Its number, from 0.")
    content_type: str = Field(description="Its media type.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    size: int = Field(description="Bytes.")
    seed: int = Field(description="The seed it was made with.")


class TaskError(BaseModel):
    """Why a task ended without an image."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(description="The error's stable name; GET /docs/errors lists them all.")
    message: str = Field(description="What went wrong this time, in one sentence.")


class TaskTimings(BaseModel):
    """Seconds that each stage of the task took; null for a stage that it did not reach."""

    model_config = ConfigDict(extra="allow")

    queued: float | None = Field(default=None, description="From the submit to the start of the last attempt.")
    loading: float | None = Field(default=None, description="Loading LoRAs and encoding the prompt.")
    generating: float | None = Field(default=None, description="Denoising and decoding.")
    storing: float | None = Field(default=None, description="Writing the images to the store.")


class TaskAcceleration(BaseModel):
    """What made the runner faster, as the runner reports it; empty until the task has ended."""

    model_config = ConfigDict(extra="allow")


class TaskStatus(BaseModel):
    """Where a task stands. Its fields constrain nothing that records do not: any record must have a document."""

    task_id: str = Field(description="The task's id: 32 lower-case hex digits.", json_schema_extra={"pattern": TASK_ID})
    status: Annotated[str, WithJsonSchema({"type": "string", "enum": _STATUSES})] = Field(
        description="Where the task stands. completed, failed, canceled and expired are final."
    )
    position: int | None = Field(description="How many tasks are served before it; 0: it is next. Null once it runs.")
    estimated_seconds: float | None = Field(description="Estimated seconds until it has ended; null when unknown.")
    progress: TaskProgress = Field(description="How far the current attempt is.")
    model_name: str = Field(description="The model that serves it.")
    alias: str | None = Field(description="The other name of the model that the request used.")
    topic: str = Field(description="The lane it is queued on, as its full topic name.")
    attempt: int = Field(description="How many attempts have counted so far, the running one included.")
    seed: int = Field(description="The seed of the first image.")
    drawn_at: Size | None = Field(
        description="The size at which a stand-in draws the images before it resizes them; null: at their own size."
    )
    image_url: str | None = Field(description="Where to download the first image, once there is one.")
    preview_url: str | None = Field(
        description="Where to download the newest preview, while a task that asked for previews runs and has one."
    )
    images: list[TaskImage] = Field(description="All its images, in order; empty until it has completed.")
    error: TaskError | None = Field(description="Why it ended without an image.")
    error_message: str | None = Field(description="The message of `error`.")
    timings: TaskTimings = Field(description="Seconds that each stage took.")
    acceleration: TaskAcceleration = Field(description="What made the runner faster, as the runner reports it.")
    status_url: str = Field(description="Where to ask again.")
    created_at: str = Field(description="When it was submitted (RFC 3339).", json_schema_extra={"format": "date-time"})
    updated_at: str = Field(description="When it last changed (RFC 3339).", json_schema_extra={"format": "date-time"})

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "task_id": "4f1c0f6f0d2b4b8f9f0c9f4f1c0f6f0d",
                "status": "queued",
                "position": 0,
                "estimated_seconds": 0.4,
                "progress": {"step": 0, "steps": 20},
                "model_name": "sd-mini",
                "alias": None,
                "topic": "ai_image_gen.online_task",
                "attempt": 0,
                "seed": 7,
                "drawn_at": None,
                "image_url": None,
                "preview_url": None,
                "images": [],
                "error": None,
                "error_message": None,
                "timings": {"queued": None, "loading": None, "generating": None, "storing": None},
                "acceleration": {},
                "status_url": "/check_status/4f1c0f6f0d2b4b8f9f0c9f4f1c0f6f0d",
                "created_at": "2026-11-24T10:00:00.000Z",
                "updated_at": "2026-11-24T10:00:00.000Z",
            }
        }
    )


_NO_TIMINGS = TaskTimings()
_NO_ACCELERATION = TaskAcceleration()


def make_document(
    snapshot: TaskSnapshot, queues: Queues, models: Mapping[str, ServedModel], links: Links, *, has_preview: bool
) -> TaskStatus:
    """The status document of this snapshot. The task's place in the queue is read here and not kept in a snapshot: it
    changes with every other task."""
    task, state, outcome = snapshot.task, snapshot.state, snapshot.outcome
    steps = task.image_params.steps
    estimate = queues.estimate(task, state, models.get(task.model_name))
    images = _images(outcome, links) if outcome else []
    error = TaskError.model_validate(outcome.error.model_dump()) if outcome and outcome.error else None
    return TaskStatus(
        task_id=task.task_id,
        status=state.status,
        position=queues.position(task.task_id) if state.status == "queued" else None,
        estimated_seconds=None if estimate is None else round(estimate, 3),
        progress=TaskProgress(step=steps if state.status == "completed" else state.step, steps=steps),
        model_name=task.model_name,
        alias=task.alias,
        topic=task.topic,
        attempt=state.tries,
        seed=task.image_params.seed,
        drawn_at=task.image_params.drawn_at,
        image_url=links.image(task.task_id) if images else None,
        preview_url=links.preview(task.task_id) if has_preview else None,
        images=images,
        error=error,
        error_message=error.message if error else None,
        timings=TaskTimings.model_validate(outcome.timings.model_dump()) if outcome else _NO_TIMINGS,
        acceleration=_acceleration(outcome.acceleration) if outcome else _NO_ACCELERATION,
        status_url=links.status(task.task_id),
        created_at=_rfc3339(task.created_at),
        updated_at=_rfc3339(snapshot.updated_at),
    )


def _images(outcome: Outcome, links: Links) -> list[TaskImage]:
    return [
        TaskImage(
            url=links.image(outcome.task_id, index),
            index=index,
            content_type=media_type(image.key),
            width=image.width,
            height=image.height,
            size=image.size,
            seed=image.seed,
        )
        for index, image in enumerate(outcome.images)
    ]


def _acceleration(reported: dict[str, Any]) -> TaskAcceleration:
    return TaskAcceleration.model_validate(reported)


def _rfc3339(unix: float) -> str:
    # Any Kafka client may have written the record, with any timestamp.
    moment = datetime.fromtimestamp(min(max(unix, 0.0), _LATEST_DATE), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
