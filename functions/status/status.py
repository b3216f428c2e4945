"""Where a task stands: from the view, then from the store. Also its cancel, and waiting for its end."""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from functions.status.document import TaskSnapshot
from functions.status.looks import SharedLook, StoredOutcomes
from functions.status.task_index import TaskIndex
from tasks.errors import AlreadyEnded, UnknownTask
from tasks.events import CancelRequested
from tasks.ports import Clock, ImageStore, TaskWriter
from tasks.preview import Preview
from tasks.task import TASK_ID

_TASK_ID = re.compile(TASK_ID)


@dataclass(frozen=True)
class Status:
    """The status function. It has three lookups: in the view alone, in the view and then the store, and in both after
    the view has read everything that the log holds now."""

    task_log: TaskWriter
    store: ImageStore
    index: TaskIndex
    clock: Clock
    _look_at_log: SharedLook = field(init=False)
    _outcomes: StoredOutcomes = field(init=False)

    def __post_init__(self) -> None:
        """Callers of this object share their looks."""
        object.__setattr__(self, "_look_at_log", SharedLook(self.index.caught_up))
        object.__setattr__(self, "_outcomes", StoredOutcomes(self.store, self.clock))

    def find_in_view(self, task_id: str) -> TaskSnapshot | None:
        """The task as the view has it; None if the view does not have it, or if this is no id of a task."""
        return self.index.snapshot(task_id) if _TASK_ID.fullmatch(task_id) else None

    async def find_in_view_or_store(self, task_id: str) -> TaskSnapshot | None:
        """The task as the view has it, or else as its stored outcome describes it. Raises StoreUnavailable,
        UntrustedOutcome."""
        snapshot = self.find_in_view(task_id)
        if snapshot is not None:
            return snapshot
        outcome = await self.store.get_outcome(task_id)
        return None if outcome is None else TaskSnapshot.from_outcome(outcome)

    async def get(self, task_id: str) -> TaskSnapshot:
        """The task, wherever it is known.

        Raises UnknownTask only after the view has read everything that the log holds now and the store was asked, now
        or a few seconds ago; QueueUnavailable, StartingUp or StoreUnavailable if that is not possible. Raises
        UntrustedOutcome.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise UnknownTask("A task id has 32 lower-case hex digits.")
        snapshot = self.find_in_view(task_id)
        if snapshot is None:
            await self._look_at_log()
            snapshot = self.find_in_view(task_id)
        if snapshot is None:
            outcome = await self._outcomes.get(task_id)
            # The view may have read the task while the store was asked.
            snapshot = TaskSnapshot.from_outcome(outcome) if outcome else self.find_in_view(task_id)
        if snapshot is None:
            raise UnknownTask
        return snapshot

    async def wait(self, task_id: str, seconds: float) -> TaskSnapshot:
        """The task when it has ended, when this many seconds have passed, or when this gateway is about to end."""
        with self.index.watching(task_id) as changed:
            snapshot = await self.get(task_id)
            try:
                async with asyncio.timeout(seconds):
                    while not snapshot.state.ended and not self.index.closing:
                        await changed.wait()
                        changed.clear()
                        snapshot = await self.get(task_id)
            except TimeoutError:
                return await self.get(task_id)
        return snapshot

    async def changes(self, task_id: str, heartbeat: float) -> AsyncGenerator[TaskSnapshot | Preview | None, None]:
        """The task now and after every change, and each new preview of it, until it has ended or this gateway is about
        to end; None after every `heartbeat` seconds without a change. Raises what `get` raises."""
        with self.index.watching(task_id) as changed:
            before: TaskSnapshot | None = None
            previous: Preview | None = None
            while not self.index.closing:
                snapshot = await self.get(task_id)
                if snapshot is not before and snapshot != before:
                    yield snapshot
                if snapshot.state.ended:
                    return
                preview = self.index.previews.get(task_id)
                if preview is not None and preview is not previous:
                    yield preview
                before, previous = snapshot, preview
                while not changed.is_set():
                    try:
                        # Not wait_for: in Python 3.11 it can lose a cancellation that arrives with the change.
                        async with asyncio.timeout(heartbeat):
                            await changed.wait()
                    except TimeoutError:
                        yield None
                changed.clear()

    async def cancel(self, snapshot: TaskSnapshot) -> TaskSnapshot:
        """Ask the owner of the task to end it; the snapshot is returned as it is. Raises AlreadyEnded if the task
        ended in another way, QueueUnavailable."""
        status = snapshot.state.status
        if status == "canceled":
            return snapshot
        if snapshot.state.ended or snapshot.partition is None:
            raise AlreadyEnded(f"The task has already ended: it is {status}.")
        event = CancelRequested(task_id=snapshot.task.task_id, at=self.clock.now())
        await self.task_log.append_event(event, snapshot.partition)
        return snapshot
