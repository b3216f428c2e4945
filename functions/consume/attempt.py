"""One attempt at one task: its task and number, its progress, and the reason why it must stop."""

import asyncio
from dataclasses import dataclass, field
from typing import Self

from tasks import runner_api
from tasks.errors import TakenOver, TaskError
from tasks.events import Progress, Released, Started, Timings
from tasks.log import Partition
from tasks.ownership import Action, Close, Stop, may_have_ended
from tasks.preview import Preview
from tasks.runner_api import Image, RunRequest
from tasks.state import TaskState
from tasks.task import DrawingFields, Task, shared_fields


@dataclass(eq=False)
class Attempt:
    """`number` counts every attempt at the task from 1; `tries` counts those that count towards the retry limit,
    including this one. The fields are in groups by the file that writes them."""

    task: Task
    partition: Partition
    number: int
    tries: int
    queued_seconds: float
    check_store_first: bool = False
    """An earlier attempt may have written an outcome, so the store is read before this one begins."""

    release_seen: bool = False
    """Written by attempts.py. We have read our own Released event (or decided not to start), so the task may be queued
    again."""
    orphaned: bool = False
    """Written by attempts.py. Its partition was lost or this process shuts down; its events are still read."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by attempts.py when the attempt has ended and none of its work is running."""

    accepted: bool = False
    """Written by handler.py, as all below. A runner sent its first frame. Until then no event of the attempt is emitted
    and it does not count as a try."""
    generating: "asyncio.Future[None] | None" = None
    """The reading of the runner's frames, while it goes on."""
    step: int = 0
    steps: int = 0
    previewed_at: float | None = None
    """When its last preview was emitted, on the clock's monotonic time."""
    images: list[Image] = field(default_factory=list)
    """Generated and not yet stored."""
    timings: Timings = field(default_factory=Timings)
    acceleration: dict[str, str] = field(default_factory=dict)

    stopped_by: TaskError | None = None
    """Written by `stop` alone: the error with which the attempt must end."""

    @classmethod
    def after(cls, state: TaskState, task: Task, partition: Partition, now: float) -> Self:
        """The next attempt at a task whose state is `state`. `now`: Unix seconds."""
        return cls(
            task=task,
            partition=partition,
            number=state.attempt + 1,
            tries=state.tries + 1,
            queued_seconds=max(0.0, now - task.created_at),
            check_store_first=may_have_ended(state),
        )

    @property
    def storing(self) -> bool:
        """Whether its images are complete and wait to be stored."""
        return bool(self.images) and self.generating is None

    def stop(self, reason: TaskError) -> None:
        """End the attempt with this error, unless its images are already complete. Only the first reason counts."""
        if self.stopped_by is None:
            self.stopped_by = reason
            if self.generating is not None:
                self.generating.cancel()

    def apply(self, action: Action) -> None:
        """Stop the attempt if the owner's decision about its task says so."""
        match action:
            case Stop(error):
                self.stop(error)
            case Close():
                self.stop(TakenOver("Another consumer has already ended the task."))

    def started(self, owner: str, at: float) -> Started:
        """The event that the attempt began. `at`, here and below, is Unix seconds."""
        return Started(task_id=self.task.task_id, at=at, attempt=self.number, owner=owner)

    def progress(self, owner: str, at: float) -> Progress:
        """The event that reports its progress."""
        return Progress(
            task_id=self.task.task_id,
            at=at,
            attempt=self.number,
            owner=owner,
            step=self.step,
            steps=self.steps or self.task.image_params.steps,
        )

    def preview(self, frame: runner_api.Preview, owner: str, at: float) -> Preview:
        """The record of a preview that the runner sent. Raises pydantic.ValidationError if the image is too large."""
        return Preview(
            task_id=self.task.task_id,
            attempt=self.number,
            owner=owner,
            step=frame.step,
            steps=self.steps or self.task.image_params.steps,
            at=at,
            image=frame.payload,
        )

    def released(self, owner: str, at: float, code: str, delay: float, counts: bool) -> Released:
        """The event that the attempt ended because of error `code` and the task may start again after `delay` seconds.
        `counts`: the attempt counts as a try."""
        return Released(
            task_id=self.task.task_id,
            at=at,
            attempt=self.number,
            owner=owner,
            code=code,
            delay=delay,
            counts=counts,
        )

    def request(self, max_runtime: float) -> RunRequest:
        """The runner's request; `max_runtime` (seconds) applies if the task sets none."""
        task = self.task
        metadata = {"task_id": task.task_id, "model": task.model_name}
        if task.alias is not None:
            metadata["alias"] = f"{task.alias} answered by {task.model_name}"
        return RunRequest.model_validate(
            shared_fields(task, DrawingFields)
            | task.image_params.model_dump()
            | {
                "task_id": task.task_id,
                "attempt": self.number,
                "metadata": metadata,
                "preview": task.previews,
                "max_runtime": task.max_runtime or max_runtime,
                "inputs": tuple(reference.name for reference in task.inputs),
                "requires": task.requires,
                "alias": task.alias,
            }
        )
