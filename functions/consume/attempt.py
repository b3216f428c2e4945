"""One attempt at one task: how far it is, and what is said of it."""

import asyncio
from dataclasses import dataclass, field

from tasks.errors import RunnerBusy, TaskError
from tasks.events import Progress, Released, Started, Timings
from tasks.log import Partition
from tasks.ownership import Action, Close, Stop
from tasks.runner_api import Image, RunRequest
from tasks.task import DrawingFields, Task, shared_fields


@dataclass(eq=False)
class Attempt:
    """`number` counts every start of the task, `tries` only those that cost it one; `step` of `steps` are done."""

    task: Task
    partition: Partition
    number: int
    tries: int
    queued_seconds: float
    step: int = 0
    steps: int = 0
    accepted: bool = False
    """A runner took it. Before that nobody need hear of it, and should it come to nothing, it was no attempt."""
    storing: bool = False
    looks_first: bool = False
    """An earlier attempt may have written an outcome."""
    heard: bool = False
    """Its owner has read that it was released, or that it is not to begin."""
    departed: bool = False
    """Its partition was taken from its owner, or its owner leaves; its task's events are read all the same."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    generating: "asyncio.Future[None] | None" = None
    stopped_by: TaskError | None = None
    pictures: list[Image] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    acceleration: dict[str, str] = field(default_factory=dict)

    def stop(self, reason: TaskError) -> None:
        """End the attempt with this reason, if its picture is not yet made."""
        if self.stopped_by is None:
            self.stopped_by = reason
            if self.generating is not None:
                self.generating.cancel()

    def heed(self, due: Action) -> None:
        """Stop, where that is due about its task."""
        match due:
            case Stop(error):
                self.stop(error)
            case Close():
                self.stop(RunnerBusy("The task has ended."))

    def started(self, owner: str, at: float) -> Started:
        """That it began; `at`, here and below, in Unix seconds."""
        return Started(task_id=self.task.task_id, at=at, attempt=self.number, owner=owner)

    def progress(self, owner: str, at: float) -> Progress:
        """How far it is."""
        return Progress(
            task_id=self.task.task_id,
            at=at,
            attempt=self.number,
            owner=owner,
            step=self.step,
            steps=self.steps or self.task.image_params.steps,
        )

    def released(self, owner: str, at: float, code: str, delay: float, counts: bool) -> Released:
        """That it is over for the reason `code`, and the task queued again after `delay` seconds; `counts`: it cost a
        try."""
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
        """What the runner is asked; `max_runtime` (seconds) is for a task that names none."""
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
                "requires": task.requires,
                "alias": task.alias,
            }
        )
