"""The gateway's index of all tasks: follows the log into a view and the queues, and wakes callers that wait."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from itertools import islice

from adapters.view import EventChange, TaskChange, View
from functions.status.document import TaskSnapshot
from functions.status.previews import Previews
from tasks.errors import StartingUp
from tasks.log import Partition, Records
from tasks.ports import LogReader
from tasks.preview import Preview
from tasks.queues import Queues
from tasks.reading import PreviewRead

_CATCH_UP_SECONDS = 4.0
_WAKES_AT_ONCE = 4
_WAKE_PAUSE_SECONDS = 0.001
"""Callers that are woken at once, and the pause until the next ones. Each sends an answer or an event, 50 us of work:
a task with hundreds of listeners must leave most of the time to other requests."""


class TaskIndex:
    """All tasks, as one gateway has read them from the log."""

    def __init__(self, task_log: LogReader, view: View, queues: Queues) -> None:
        """Starts with what the view's file holds; `run` follows the log from there."""
        self.view = view
        self.queues = queues
        self.previews = Previews()
        self._task_log = task_log
        self._positions: dict[tuple[str, Partition], int] = {}
        self._moved = asyncio.Event()
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._to_wake: dict[asyncio.Event, None] = {}
        self._snapshots: dict[str, TaskSnapshot | None] = {}
        """Of watched tasks: all callers that watch one read it once after each change."""
        self.closing = False
        for row in view.unfinished():
            if row.task is not None and row.refusal is None:
                queues.add(row.task, row.partition, row.state)

    async def run(self) -> None:
        """Follow the log for ever."""
        async with aclosing(self._task_log.follow(self.view.offsets())) as batches:
            async for batch in batches:
                self._apply(batch)

    @property
    def started(self) -> bool:
        """Whether reading has begun. Before that, the index holds only the tasks in the view's file, and no models."""
        return bool(self._positions)

    def lag(self, ends: Mapping[tuple[str, Partition], int]) -> int:
        """How many records below these end offsets are not read yet."""
        return sum(max(0, end - self._positions.get(key, 0)) for key, end in ends.items())

    async def caught_up(self) -> None:
        """Return once everything that the log holds now has been read. Raises QueueUnavailable, or StartingUp where
        that takes too long."""
        if not await self.reached(await self._task_log.ends(), _CATCH_UP_SECONDS):
            raise StartingUp(retry_after=2)

    async def reached(self, ends: Mapping[tuple[str, Partition], int], seconds: float) -> bool:
        """Wait until everything below these end offsets is read; False if that takes longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not self.started or self.lag(ends):
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def snapshot(self, task_id: str) -> TaskSnapshot | None:
        """The task as the view has it; None if the view does not have it."""
        if task_id not in self._watchers:
            return TaskSnapshot.from_view(self.view.get(task_id))
        if task_id not in self._snapshots:
            self._snapshots[task_id] = TaskSnapshot.from_view(self.view.get(task_id))
        return self._snapshots[task_id]

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
            self._to_wake.pop(changed, None)
            if not watchers:
                self._watchers.pop(task_id, None)
                self._snapshots.pop(task_id, None)

    def stop_waiting(self) -> None:
        """Answer every waiting caller now, with the task as it is: the gateway is about to end."""
        self.closing = True
        for task_id in tuple(self._watchers):
            self._wake(task_id)

    @property
    def waiting(self) -> int:
        """How many callers wait for a task."""
        return sum(map(len, self._watchers.values()))

    def _apply(self, batch: Records) -> None:
        self._positions |= batch.starts
        changes = self.view.apply(batch.records)
        self._snapshots.clear()
        for change in changes:
            match change:
                case TaskChange(first=True, refusal=None):
                    self.queues.add(change.task, change.place.partition, change.state)
                    self._wake(change.task.task_id)
                case TaskChange():
                    self.queues.unexpect(change.task.task_id)
                case PreviewRead(preview):
                    self._apply_preview(preview)
                case EventChange():
                    self.queues.move(change.event.task_id, change.after)
                    self.previews.update(change.event.task_id, change.after)
                    if change.after != change.before:
                        self._wake(change.event.task_id)
                case _:
                    continue
        for record in batch.records:
            self._positions[record.place.topic, record.place.partition] = record.place.offset + 1
        self._moved.set()
        self._moved = asyncio.Event()

    def _apply_preview(self, preview: Preview) -> None:
        row = self.view.get(preview.task_id)
        asked_for = row is not None and row.task is not None and row.task.previews
        if row is not None and asked_for and self.previews.put(preview, row.state):
            self._wake(preview.task_id)

    def _wake(self, task_id: str) -> None:
        watchers = tuple(self._watchers.get(task_id, ()))
        for changed in watchers[:_WAKES_AT_ONCE]:
            changed.set()
        # Only the watchers of a crowded task wait, and each other.
        pausing = bool(self._to_wake)
        self._to_wake.update(dict.fromkeys(watchers[_WAKES_AT_ONCE:]))
        if self._to_wake and not pausing:
            asyncio.get_running_loop().call_later(_WAKE_PAUSE_SECONDS, self._wake_some)

    def _wake_some(self) -> None:
        for changed in tuple(islice(self._to_wake, _WAKES_AT_ONCE)):
            del self._to_wake[changed]
            changed.set()
        if self._to_wake:
            asyncio.get_running_loop().call_later(_WAKE_PAUSE_SECONDS, self._wake_some)
