"""Which tasks wait, which run, and which images share the next forward. Decisions only, without torch.

Tasks are admitted in the order in which they came, each when its pixels and those of the running tasks fit the budget.
Running images with equal shape keys and LoRA sets may share a forward. The group that was stepped longest ago is next.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runners.loras import LoraSet
from tasks.errors import RunnerBusy
from tasks.runner_api import Frame, RunRequest

Emit = Callable[[Frame], None]
"""Sends one frame of the task's answer. Called from the engine's threads; must not block."""


@dataclass(eq=False)
class Job:
    """One task at the engine. `samples` are its unfinished images by index; times are seconds of the engine's clock."""

    request: RunRequest
    emit: Emit
    submitted: float
    loras: LoraSet = ()
    files: dict[str, Any] = field(default_factory=dict)
    samples: dict[int, Any] = field(default_factory=dict)
    began: float | None = None
    encoding_seconds: float = 0.0
    last_tick: int = -1
    reported_step: int = 0
    previewed: float | None = None
    undelivered: int = 0
    canceled: bool = False
    failed: bool = False

    @property
    def pixels(self) -> int:
        """The pixels that it takes of the pixel budget."""
        return self.request.pixels

    def cancel(self) -> None:
        """The caller no longer wants the images. The engine drops the task before its next step."""
        self.canceled = True


class Row(NamedTuple):
    """One image of a forward."""

    job: Job
    sample: Any


class Batch:
    """The tasks of one engine. Not safe to use from two threads at a time; the engine holds its lock."""

    def __init__(self, pixel_budget: int) -> None:
        """`pixel_budget` is the sum of width x height that may run at once."""
        self._budget = pixel_budget
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []

    @property
    def running(self) -> tuple[Job, ...]:
        """The running tasks."""
        return tuple(self._running)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All tasks: first the running ones, then the waiting ones."""
        return (*self._running, *self._waiting)

    @property
    def running_pixels(self) -> int:
        """The pixels of the running tasks."""
        return sum(job.pixels for job in self._running)

    @property
    def waiting(self) -> int:
        """How many tasks wait."""
        return len(self._waiting)

    def add(self, job: Job) -> int:
        """Let the task wait. Returns how many tasks wait before it.

        Raises RunnerBusy when running and waiting tasks together would exceed twice the budget. When there is no other
        task, a task of any size is accepted.
        """
        taken = sum(job.pixels for job in self.jobs)
        if taken and taken + job.pixels > 2 * self._budget:
            raise RunnerBusy
        self._waiting.append(job)
        return len(self._waiting) - 1

    def admit(self) -> Job | None:
        """Start the next waiting task if it fits the budget. When no task runs, a task of any size fits."""
        if not self._waiting:
            return None
        job, used = self._waiting[0], self.running_pixels
        if used and used + job.pixels > self._budget:
            return None
        self._running.append(self._waiting.popleft())
        return job

    def unprepared(self) -> Job | None:
        """The first waiting task that is not prepared yet: its prompts are not encoded."""
        return next((job for job in self._waiting if not job.samples), None)

    def remove(self, job: Job) -> None:
        """Take the task out, wherever it is. A second call does nothing."""
        job.samples.clear()
        job.canceled = True
        for jobs in (self._running, self._waiting):
            if job in jobs:
                jobs.remove(job)

    def next_group(self) -> list[Row]:
        """The images of the next forward: equal shape key and LoRA set, of the group that was stepped longest ago."""
        groups: dict[Any, list[Row]] = {}
        for row in self._rows():
            groups.setdefault((row.sample.shape_key, row.job.loras), []).append(row)
        return min(groups.values(), key=lambda rows: max(row.job.last_tick for row in rows), default=[])

    def _rows(self) -> Iterator[Row]:
        for job in self._running:
            for sample in job.samples.values():
                yield Row(job, sample)
