"""Partitions, queues and runner slots: what to do with everything the log delivers, and which task is next.

All state moves on what is read from the log; the dispatcher runs in one event loop and holds no lock.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine
from dataclasses import replace
from typing import Any

from adapters.view import Change, EventChange, TaskChange, View
from functions.consume.attempt import Attempt
from functions.consume.handler import Handler
from functions.consume.metrics import Metrics
from functions.consume.orphans import listen
from functions.consume.partitions import OwnedPartitions
from functions.consume.runner_pool import RunnerPool, Slot
from functions.consume.timers import Timers
from tasks.errors import RunnerBusy, StartedTooLate, TaskError
from tasks.events import Released
from tasks.lease import LAST_LOOK_SECONDS, lease_ends
from tasks.log import Assigned, Delivery, Partition, Records, Revoked
from tasks.ownership import (
    Close,
    End,
    Keep,
    Offer,
    Stop,
    Watch,
    after_lease,
    may_begin,
    may_have_ended,
    needs_review,
    next_action,
)
from tasks.ports import Clock, GroupMember, TaskLog
from tasks.queues import Queues
from tasks.reading import CardRead, Unreadable
from tasks.state import TaskState
from tasks.task import Task

log = logging.getLogger(__name__)


class Dispatcher:
    """One owner's share of the work."""

    def __init__(
        self,
        *,
        log: TaskLog,
        member: GroupMember,
        view: View,
        queues: Queues,
        pool: RunnerPool,
        handler: Handler,
        clock: Clock,
        owner: str,
        metrics: Metrics,
        max_unstored: int,
    ) -> None:
        """Wire it up; `run` starts it. `owner` names this process in the events. It hands out nothing while
        `max_unstored` finished tasks wait to be stored."""
        self._log = log
        self._member = member
        self._view = view
        self._queues = queues
        self._pool = pool
        self._handler = handler
        self._clock = clock
        self._owner = owner
        self._metrics = metrics
        self._max_unstored = max_unstored
        self._alarms = Timers(clock)
        self._attempts: dict[str, Attempt] = {}
        self._ending: set[str] = set()
        self._share = OwnedPartitions(member, log.events_topic)
        self._background: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._stopping = False
        self._hurried = asyncio.Event()
        pool.changed = self.dispatch

    async def run(self) -> None:
        """Take deliveries from the log until cancelled or stopped."""
        self._failure = asyncio.get_running_loop().create_future()
        work = [asyncio.ensure_future(self._deliveries()), asyncio.ensure_future(self._ring()), self._failure]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in work:
                one.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _deliveries(self) -> None:
        async with contextlib.aclosing(self._member.deliveries()) as deliveries:
            async for delivery in deliveries:
                self.take(delivery)

    @property
    def ready(self) -> bool:
        """Whether it has read all it must know before it starts a task."""
        return self._share.ready

    def take(self, delivery: Delivery) -> None:
        """Take in one delivery and hand out what can be started now."""
        match delivery:
            case Assigned():
                self._share.add(delivery.events_until)
                self._catch_up()
            case Revoked():
                self._drop(delivery.partitions)
            case Records():
                for change in self._view.apply(delivery.records):
                    self._changed(change)
                self._catch_up()
        self.dispatch()

    def _changed(self, change: Change) -> None:
        match change:
            case TaskChange():
                self._task_read(change)
            case EventChange():
                self._event_read(change)
            case Unreadable(record=record) if record.kind == "task":
                # Now, not in `_dead_letter`: a later offset, once opened, would let this one pass.
                self._share.open(record.place)
                self._spawn(self._dead_letter(change))
            case Unreadable() if not self.ready:
                # It was there before, so whoever read it first has buried it; it would be again at every start.
                log.info("skipped", extra={"place": str(change.record.place), "reason": change.reason})
            case Unreadable():
                self._spawn(self._dead_letter(change))
            case CardRead(card=card):
                self._pool.learn(card)

    def _task_read(self, read: TaskChange) -> None:
        partition = read.place.partition
        if read.state.ended:
            self._share.open(read.place)
            self._share.close([read.place])
            return
        self._share.open(read.place, read.task.task_id)
        if read.first and not self._share.is_catching_up(partition):
            self._take_in(read.task, partition, read.state, read.refusal)

    def _take_in(self, task: Task, partition: Partition, state: TaskState, refusal: TaskError | None) -> None:
        if refusal is not None:
            self._finish(task, partition, refusal)
            return
        self._queues.add(task, partition, state)
        if task.start_deadline is not None and state.attempt == 0:
            at = self._monotonic(task.start_deadline)
            if at <= self._clock.monotonic():
                self._end_queued(task.task_id, StartedTooLate())
                return
            self._alarms.set(("expires", task.task_id), at)
        # When the delay of its last attempt began nobody knows any more, so it is taken to be over.
        self._attend(task.task_id, replace(state, delay=0.0))

    def _event_read(self, read: EventChange) -> None:
        task_id, event = read.event.task_id, read.event
        mine = self._attempts.get(task_id)
        if mine is not None and isinstance(event, Released) and event.owner == self._owner:
            mine.heard |= event.attempt == mine.number
        if self._share.is_catching_up(read.partition):
            if read.after.ended:
                self._share.end(task_id)
        elif needs_review(event, read.before, read.after, self._owner):
            self._attend(task_id, read.after)

    def _attend(self, task_id: str, state: TaskState) -> None:
        """Do what is due about a task of ours in this state."""
        mine = self._attempts.get(task_id)
        decided = next_action(state, None if mine is None else mine.number, self._owner)
        if mine is not None:
            mine.heed(decided)
        match decided:
            case Close():
                self._forget_alarms(task_id)
                self._queues.move(task_id, state)
                self._share.end(task_id)
            case Keep() | Stop():
                return
            case Watch():
                self._queues.move(task_id, state)
                self._alarms.clear(("again", task_id))
                self._alarms.set(("lease", task_id), lease_ends(self._clock.monotonic()) - LAST_LOOK_SECONDS)
            case End(error):
                self._end_queued(task_id, error)
            case Offer(delay) if delay > 0:
                self._alarms.clear(("lease", task_id))
                self._alarms.set(("again", task_id), self._clock.monotonic() + delay)
            case Offer():
                self._alarms.clear(("lease", task_id))
                self._alarms.clear(("again", task_id))
                self._queues.move(task_id, state)

    def _catch_up(self) -> None:
        if self._share.ready:
            return
        for partition in self._share.caught_up(self._view.offsets()):
            for known in self._view.unfinished(partition):
                if known.task is not None:
                    self._take_in(known.task, partition, known.state, known.refusal)

    def dispatch(self) -> None:
        """Start every task that is next in its model's queue and for which a runner has room."""
        if self._stopping:
            return
        for model in self._queues.models():
            queue = self._queues.queue(model)
            while self._storing() < self._max_unstored and self._pool.has_room(model) and (entry := queue.peek()):
                known = self._view.get(entry.task_id)
                if known is None or known.task is None or known.state.ended or entry.task_id in self._ending:
                    queue.remove(entry.task_id)
                    continue
                if entry.task_id in self._attempts:
                    # Its partition went and came back while it ran here.
                    self._queues.move(entry.task_id, TaskState(status="running"))
                    continue
                params = known.task.image_params
                slot = self._pool.take(model, params.pixels)
                if slot is None:
                    break
                self._start(known.task, known.partition, known.state, slot)

    def _start(self, task: Task, partition: Partition, state: TaskState, slot: Slot) -> None:
        task_id = task.task_id
        attempt = Attempt(
            task=task,
            partition=partition,
            number=state.attempt + 1,
            looks_first=may_have_ended(state),
            tries=state.tries + 1,
            queued_seconds=max(0.0, self._clock.now() - task.created_at),
        )
        self._attempts[task_id] = attempt
        self._alarms.clear(("expires", task_id))
        self._queues.move(task_id, TaskState(status="running"))
        self._spawn(self._attempt(attempt, slot))

    async def _attempt(self, attempt: Attempt, slot: Slot) -> None:
        task_id = attempt.task.task_id
        self._metrics.running.inc()
        try:
            if attempt.looks_first and (stands := await self._handler.stored_outcome(task_id)):
                slot.release()
                await self._handler.announce(stands, attempt.partition)
            elif may_begin(self._state(task_id), attempt.number):
                await self._handler.run(attempt, slot)
            else:
                attempt.heard = True
        finally:
            slot.release()
            del self._attempts[task_id]
            attempt.over.set()
            self._metrics.running.dec()
            self.dispatch()
        # Where its release was read before this, nothing else says that the task needs somebody.
        if attempt.heard and (state := self._state(task_id)) is not None:
            self._attend(task_id, state)
            self.dispatch()

    def _state(self, task_id: str) -> TaskState | None:
        """What is known of a task of a partition that is ours and whose events have been read."""
        known = self._view.get(task_id)
        return known.state if known is not None and self._share.may_act(known.partition) else None

    def _end_queued(self, task_id: str, error: TaskError) -> None:
        known = self._view.get(task_id)
        if known is not None and known.task is not None and not known.state.ended and task_id not in self._attempts:
            self._finish(known.task, known.partition, error)

    def _finish(self, task: Task, partition: Partition, error: TaskError) -> None:
        if task.task_id in self._ending:
            return
        self._ending.add(task.task_id)
        self._queues.move(task.task_id, TaskState(status="failed"))
        self._spawn(self._finish_now(task, partition, error))

    async def _finish_now(self, task: Task, partition: Partition, error: TaskError) -> None:
        try:
            await self._handler.finish(task, partition, error=error)
        finally:
            self._ending.discard(task.task_id)

    async def _dead_letter(self, change: Unreadable) -> None:
        await self._handler.dead_letter(change.record, change.reason)
        if change.record.kind == "task":
            self._share.close([change.record.place])

    async def _ring(self) -> None:
        async for kind, task_id in self._alarms.ring():
            known = self._view.get(task_id)
            if known is None or known.state.ended or task_id in self._attempts:
                continue
            if kind == "expires":
                self._expire(task_id, known.state)
            elif kind == "lease":
                self._alarms.set(("again", task_id), self._clock.monotonic() + LAST_LOOK_SECONDS)
            else:
                self._attend(task_id, after_lease(known.state))
                self.dispatch()

    def _expire(self, task_id: str, state: TaskState) -> None:
        if state.attempt == 0:
            self._end_queued(task_id, StartedTooLate())

    def _forget_alarms(self, task_id: str) -> None:
        for kind in ("lease", "again", "expires"):
            self._alarms.clear((kind, task_id))

    def _storing(self) -> int:
        return sum(attempt.storing for attempt in self._attempts.values())

    def _monotonic(self, unix: float) -> float:
        return self._clock.monotonic() + unix - self._clock.now()

    def _drop(self, partitions: frozenset[Partition]) -> None:
        self._share.drop(partitions)
        self._take_back(partitions)
        self._listen(partitions)
        for task_id in self._queues.forget(partitions):
            self._forget_alarms(task_id)
        self._view.forget(partitions)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # What was lost with it is in the log: a new start picks it up.
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)
        else:
            log.error("not finished", exc_info=error)

    def measure(self) -> None:
        """Set the gauges to how things stand."""
        self._metrics.depth.clear()
        self._metrics.oldest.clear()
        for model, lane, count, age in self._queues.depths(self._clock.now):
            self._metrics.depth.labels(model, lane).set(count)
            self._metrics.oldest.labels(model, lane).set(age)
        self._metrics.unstored.set(self._storing())
        self._metrics.busy.clear()
        for model, share in self._pool.busy_shares():
            self._metrics.busy.labels(model).set(share)
        for model, card in self._pool.cards().items():
            self._metrics.runners.labels(model).set(card.runners)

    def take_no_more(self) -> None:
        """Start nothing from now on; what no runner has taken yet is queued, for whoever owns it next."""
        self._stopping = True
        self._take_back(self._share.partitions)

    def _take_back(self, partitions: Collection[Partition]) -> None:
        # Its start would be told too late: the next owner reads no further than to where the log ends now.
        for attempt in self._attempts.values():
            if attempt.partition in partitions and not attempt.accepted:
                attempt.stop(RunnerBusy("The task is somebody else's now."))

    def _listen(self, partitions: Collection[Partition]) -> None:
        """Go on hearing of what runs here of these partitions, whose events are no longer read."""
        left = {
            task_id: (attempt, known.state)
            for task_id, attempt in self._attempts.items()
            if attempt.partition in partitions
            and attempt.accepted
            and not attempt.departed
            and (known := self._view.get(task_id)) is not None
        }
        if not left:
            return
        for attempt, _ in left.values():
            attempt.departed = True
        topic, read = self._log.events_topic, self._view.offsets()
        offsets = {attempt.partition: read.get((topic, attempt.partition), 0) for attempt, _ in left.values()}
        self._spawn(listen(self._log, self._owner, left, offsets))

    def hurry(self) -> None:
        """Let `stop`, now or later, wait no longer for what runs."""
        self._hurried.set()

    async def stop(self, grace: float) -> None:
        """Start nothing more; give what runs `grace` seconds to end, then give it back so that nobody need wait."""
        self.take_no_more()
        self._listen(self._share.partitions)
        deadline = asyncio.ensure_future(self._grace(grace))
        while self._background and not deadline.done():
            await asyncio.wait((deadline, *self._background), return_when=asyncio.FIRST_COMPLETED)
        deadline.cancel()
        left = tuple(self._attempts.values())
        for work in self._background:
            work.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for attempt in left:
            self._handler.release_on_exit(attempt)

    async def _grace(self, seconds: float) -> None:
        over = (asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._hurried.wait()))
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in over:
                one.cancel()
