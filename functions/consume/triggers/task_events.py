"""What the events topic says about the tasks that a platform delivers to this process.

A worker reads the events of the partitions that it owns. A process that is called by a platform owns none, so it reads
the events of a partition once a record of that partition is delivered, without a group: from shortly before the record
was appended, because no event of a task is older than the task. It keeps reading until the process ends. A warm
process therefore reads only what is new, and a cancel reaches a running attempt when it reaches the log.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from functions.consume.attempt import Attempt
from tasks.errors import QueueUnavailable
from tasks.events import Event
from tasks.log import CLOCK_SKEW_SECONDS, Partition, Record
from tasks.ownership import next_action
from tasks.ports import Clock, LogReader
from tasks.reading import EventRead, read_record
from tasks.state import TaskState, apply

RETRY_SECONDS = 0.5
"""Seconds before an unavailable Kafka is asked again."""


@dataclass(eq=False)
class FollowedTask:
    """A task that was delivered to this process and has no outcome yet. `changed` is set at its next event; `attempt`
    is the attempt that runs here."""

    state: TaskState
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    attempt: Attempt | None = None

    def apply(self, event: Event, owner: str) -> None:
        """Apply an event of the task, which may stop the attempt of owner `owner`, this process."""
        self.state = apply(self.state, event)
        self.changed.set()
        self.changed = asyncio.Event()
        if self.attempt is not None:
            self.attempt.apply(next_action(self.state, self.attempt.number, owner))


class TaskEvents:
    """Reads the events of all partitions from which this process has received a record."""

    def __init__(self, log: LogReader, clock: Clock, owner: str) -> None:
        """Reads nothing before `catch_up`. `owner` names this process in the events."""
        self._log = log
        self._clock = clock
        self._owner = owner
        self._began: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._states: dict[str, TaskState] = {}
        """Of every task that has an event and no outcome."""
        self._followed: dict[str, FollowedTask] = {}
        self._reading: asyncio.Future[None] | None = None
        self._restart = asyncio.Lock()
        self._moved = asyncio.Event()

    async def catch_up(self, times: Mapping[Partition, float]) -> None:
        """Return when every event that these partitions hold now has been read, from shortly before these append times
        of tasks (Unix seconds). Waits while Kafka is unavailable."""
        starts, ends = await self._offsets({p: time - CLOCK_SKEW_SECONDS for p, time in times.items()})
        async with self._restart:
            await self._read_from(starts)
        while any(self._positions[partition] < end for partition, end in ends.items()):
            assert self._reading is not None
            reading, moved = self._reading, asyncio.ensure_future(self._moved.wait())
            try:
                await asyncio.wait((reading, moved), return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()
            if reading.done() and not reading.cancelled():
                reading.result()

    @asynccontextmanager
    async def follow(self, task_id: str) -> AsyncIterator[FollowedTask]:
        """The task, kept up to date until the block ends. Its partition must be caught up."""
        followed = FollowedTask(self._states.get(task_id, TaskState()))
        self._followed[task_id] = followed
        try:
            yield followed
        finally:
            del self._followed[task_id]
            self._keep(task_id, followed.state)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _offsets(
        self, times: Mapping[Partition, float]
    ) -> tuple[Mapping[Partition, int], Mapping[Partition, int]]:
        while True:
            try:
                starts = await self._log.events_since(times)
                ends = await self._log.ends()
            except QueueUnavailable:
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return starts, {partition: ends[self._log.events_topic, partition] for partition in times}

    async def _read_from(self, starts: Mapping[Partition, int]) -> None:
        """Start reading at these offsets, unless what is being read already began there or before. A second reading of
        an event changes no state."""
        new = {partition: at for partition, at in starts.items() if at < self._began.get(partition, at + 1)}
        if new or (self._reading is not None and self._reading.done()):
            await self.close()
            self._began |= new
            self._positions |= new
            self._reading = asyncio.ensure_future(self._read(dict(self._positions)))

    async def _read(self, offsets: Mapping[Partition, int]) -> None:
        async with aclosing(self._log.read_events(offsets)) as batches:
            async for batch in batches:
                for record in batch.records:
                    self._apply(record)
                self._moved.set()
                self._moved = asyncio.Event()

    def _apply(self, record: Record) -> None:
        self._positions[record.place.partition] = record.place.offset + 1
        reading = read_record(record, {}, ())
        # A record that cannot be read is left alone: no process here owns the partition and its dead letters.
        if not isinstance(reading, EventRead):
            return
        event = reading.event
        if followed := self._followed.get(event.task_id):
            followed.apply(event, self._owner)
        else:
            self._keep(event.task_id, apply(self._states.get(event.task_id, TaskState()), event))

    def _keep(self, task_id: str, state: TaskState) -> None:
        """Remember the state, unless the task has ended: the store has its outcome and is asked at each delivery."""
        if state.ended:
            self._states.pop(task_id, None)
        elif state != TaskState():
            self._states[task_id] = state
