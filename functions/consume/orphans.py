"""What still runs here although its partition is another's, or this process leaves: its task may yet be canceled, or
taken over, and its GPU must be free as soon as it is said."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from pydantic import ValidationError

from functions.consume.attempt import Attempt
from tasks.events import parse_event
from tasks.log import Partition, Record
from tasks.ownership import next_action
from tasks.ports import TaskLog
from tasks.state import TaskState, apply


async def listen(
    log: TaskLog, owner: str, attempts: Mapping[str, tuple[Attempt, TaskState]], offsets: Mapping[Partition, int]
) -> None:
    """Read the events from these offsets on, and stop what is to stop, until all attempts are over. `attempts`: by task
    id, with the task's state where the offsets are."""
    hearing = asyncio.ensure_future(_hear(log, owner, dict(attempts), offsets))
    over = asyncio.gather(*(attempt.over.wait() for attempt, _ in attempts.values()))
    try:
        await asyncio.wait((hearing, over), return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            hearing.result()
    finally:
        over.cancel()
        hearing.cancel()
        await asyncio.gather(over, hearing, return_exceptions=True)


async def _hear(
    log: TaskLog, owner: str, attempts: dict[str, tuple[Attempt, TaskState]], offsets: Mapping[Partition, int]
) -> None:
    async with aclosing(log.read_events(offsets)) as deliveries:
        async for delivery in deliveries:
            for record in delivery.records:
                _read(record, owner, attempts)


def _read(record: Record, owner: str, attempts: dict[str, tuple[Attempt, TaskState]]) -> None:
    try:
        event = parse_event(record.value)
    except ValidationError:
        return  # Whoever owns the partition puts it with the dead letters.
    if event is None or event.task_id not in attempts:
        return
    attempt, before = attempts[event.task_id]
    state = apply(before, event)
    attempts[event.task_id] = attempt, state
    attempt.heed(next_action(state, attempt.number, owner))
