"""Attempts that keep running after we lost their partition, or while we shut down. We keep reading their events so that
a cancel or a takeover still stops them and frees the GPU."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from functions.consume.attempt import Attempt
from tasks.log import Partition, Record
from tasks.ownership import next_action
from tasks.ports import LogReader
from tasks.reading import EventRead, read_record
from tasks.state import TaskState, apply


async def watch_orphans(
    task_log: LogReader, owner: str, orphans: Mapping[str, tuple[Attempt, TaskState]], offsets: Mapping[Partition, int]
) -> None:
    """Read the events from these offsets on until all orphans are over, and stop each one that its task's state says
    must stop. `orphans`: by task id, with the task's state at the offsets."""
    reading = asyncio.ensure_future(_read(task_log, owner, dict(orphans), offsets))
    over = asyncio.gather(*(attempt.over.wait() for attempt, _ in orphans.values()))
    try:
        await asyncio.wait((reading, over), return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
    finally:
        over.cancel()
        reading.cancel()
        await asyncio.gather(over, reading, return_exceptions=True)


async def _read(
    task_log: LogReader, owner: str, orphans: dict[str, tuple[Attempt, TaskState]], offsets: Mapping[Partition, int]
) -> None:
    async with aclosing(task_log.read_events(offsets)) as deliveries:
        async for delivery in deliveries:
            for record in delivery.records:
                _apply(record, owner, orphans)


def _apply(record: Record, owner: str, orphans: dict[str, tuple[Attempt, TaskState]]) -> None:
    reading = read_record(record, {}, ())
    # A record that cannot be read is written to the dead letters by the partition's owner.
    if not isinstance(reading, EventRead) or reading.event.task_id not in orphans:
        return
    event = reading.event
    attempt, before = orphans[event.task_id]
    state = apply(before, event)
    orphans[event.task_id] = attempt, state
    attempt.apply(next_action(state, attempt.number, owner))
