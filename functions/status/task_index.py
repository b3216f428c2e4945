"""The gateway's local view: follows the log, tells positions, and wakes whoever waits for a task."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager

from adapters.view import EventChange, TaskChange, View
from tasks.errors import StartingUp
from tasks.log import Partition, Records
from tasks.ports import TaskLog
from tasks.queues import Queues

log = logging.getLogger(__name__)

_CATCH_UP_SECONDS = 4.0


class TaskIndex:
    """One gateway's knowledge of all tasks."""

    def __init__(self, log: TaskLog, view: View, queues: Queues) -> None:
        """Knows what the view's file holds; `run` follows the log from there."""
        self.view = view
        self.queues = queues
        self._log = log
        self._positions: dict[tuple[str, Partition], int] = {}
        self._moved = asyncio.Event()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False
        for known in view.unfinished():
            if known.task is not None and known.refusal is None:
                queues.add(known.task, known.partition, known.state)

    async def run(self) -> None:
        """Follow the log for ever."""
        async with aclosing(self._log.follow(self.view.offsets())) as runs:
            async for run in runs:
                self._take(run)

    @property
    def started(self) -> bool:
        """Whether it knows where it reads: before that, it knows nothing of what is new."""
        return bool(self._positions)

    def lag(self, ends: Mapping[tuple[str, Partition], int]) -> int:
        """How many records are not yet read."""
        return sum(max(0, end - self._positions.get(key, 0)) for key, end in ends.items())

    async def caught_up(self) -> None:
        """Return once everything in the log by now has been read. Raises QueueUnavailable, or StartingUp where that
        takes too long."""
        if not await self.reached(await self._log.ends(), _CATCH_UP_SECONDS):
            raise StartingUp(retry_after=2)

    async def reached(self, ends: Mapping[tuple[str, Partition], int], seconds: float) -> bool:
        """Whether these offsets are reached within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not self.started or self.lag(ends):
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def watching(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the task changes."""
        changed = asyncio.Event()
        watchers = self._watchers[task_id]
        watchers.add(changed)
        try:
            yield changed
        finally:
            watchers.discard(changed)
            if not watchers:
                self._watchers.pop(task_id, None)

    def stop_waiting(self) -> None:
        """Let everybody who waits for a task answer now, with what is known: the gateway is about to end."""
        self.closing = True
        for task_id in tuple(self._watchers):
            self._wake(task_id)

    @property
    def waiting(self) -> int:
        """How many callers wait for a task."""
        return sum(map(len, self._watchers.values()))

    def _take(self, run: Records) -> None:
        self._positions |= run.starts
        for change in self.view.apply(run.records):
            match change:
                case TaskChange(first=True, refusal=None):
                    self.queues.add(change.task, change.place.partition, change.state)
                    self._wake(change.task.task_id)
                case TaskChange():
                    self.queues.unexpect(change.task.task_id)
                case EventChange():
                    self.queues.move(change.event.task_id, change.after)
                    if change.after != change.before:
                        self._wake(change.event.task_id)
                case _:
                    continue
        for record in run.records:
            self._positions[record.place.topic, record.place.partition] = record.place.offset + 1
        self._moved.set()
        self._moved = asyncio.Event()

    def _wake(self, task_id: str) -> None:
        for changed in self._watchers.get(task_id, ()):
            changed.set()
