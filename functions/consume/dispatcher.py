"""Decides what to do about every task of the partitions that this process owns, and which task is started next.

A task's state changes only when a record is read from the log. So what the dispatcher believes about a task is what
every other reader of the log believes, and a new owner can go on from the same place. It runs in one event loop and
needs no lock.
"""

import logging
from contextlib import aclosing
from dataclasses import replace

from adapters.view import Change, EventChange, TaskChange, View
from functions.consume.attempt import Attempt
from functions.consume.attempts import Attempts
from functions.consume.background import Background
from functions.consume.handler import Handler
from functions.consume.metrics import Metrics
from functions.consume.partitions import OwnedPartitions
from functions.consume.runner_pool import RunnerPool
from functions.consume.timers import Timers
from tasks.errors import NotUnderstood, StartedTooLate, TaskError
from tasks.events import Released
from tasks.lease import LAST_LOOK_SECONDS, lease_ends
from tasks.log import Assigned, Delivery, Partition, Records, Revoked
from tasks.ownership import Close, End, Keep, Offer, Stop, Watch, after_lease, may_begin, needs_review, next_action
from tasks.ports import Clock, GroupMember, TaskLog
from tasks.queues import Queues
from tasks.reading import CardRead, Unreadable
from tasks.state import TaskState
from tasks.task import Task

logger = logging.getLogger(__name__)

PURPOSES = EXPIRE, LEASE, AGAIN = "expire", "lease", "again"
"""Purposes of timers: start_within is over; the lease is about to end; decide about the task again."""


class Dispatcher:
    """The decisions of one consumer process."""

    def __init__(
        self,
        *,
        task_log: TaskLog,
        member: GroupMember,
        view: View,
        queues: Queues,
        pool: RunnerPool,
        handler: Handler,
        background: Background,
        clock: Clock,
        owner: str,
        metrics: Metrics,
        max_unstored: int,
        not_understood_wait: float,
    ) -> None:
        """`owner` names this process in the events. It starts no task while `max_unstored` generated tasks wait to be
        stored. A task that needs a newer version fails `not_understood_wait` seconds after it was created."""
        self.queues = queues
        self.partitions = OwnedPartitions(member, task_log.events_topic)
        self.attempts = Attempts(
            handler=handler,
            view=view,
            task_log=task_log,
            background=background,
            clock=clock,
            owner=owner,
            metrics=metrics,
            may_begin=self._may_begin,
            on_over=self._attempt_over,
        )
        self._member = member
        self._view = view
        self._pool = pool
        self._handler = handler
        self._background = background
        self._clock = clock
        self._owner = owner
        self._max_unstored = max_unstored
        self._not_understood_wait = not_understood_wait
        self._timers = Timers(clock)
        self._ending: set[str] = set()
        self._stopping = False

    async def read_log(self) -> None:
        """Join the group and receive deliveries until cancelled; then leave the group."""
        async with aclosing(self._member.deliveries()) as deliveries:
            async for delivery in deliveries:
                self.receive(delivery)

    async def watch_timers(self) -> None:
        """Decide again about each task whose timer is due, until cancelled."""
        async for purpose, task_id in self._timers.due():
            seen = self._view.get(task_id)
            if seen is None or seen.state.ended or task_id in self.attempts:
                continue
            if purpose == EXPIRE and seen.state.attempt == 0:
                self._end_queued(task_id, StartedTooLate())
            elif purpose == LEASE:
                # If this process was frozen, events that renew the lease may be waiting: read for a moment first.
                self._timers.set((AGAIN, task_id), self._clock.monotonic() + LAST_LOOK_SECONDS)
            elif purpose == AGAIN:
                self._decide(task_id, after_lease(seen.state))
                self.dispatch()

    def receive(self, delivery: Delivery) -> None:
        """Act on one delivery of the log, then start what can be started."""
        match delivery:
            case Assigned():
                self.partitions.add(delivery.events_until)
                self._catch_up()
            case Revoked():
                self._give_up(delivery.partitions)
            case Records():
                for change in self._view.apply(delivery.records):
                    self._read(change)
                self._catch_up()
        self.dispatch()

    def _read(self, change: Change) -> None:
        match change:
            case TaskChange():
                self._read_task(change)
            case EventChange():
                self._read_event(change)
            case Unreadable(record=record) if record.kind == "task":
                # The record is opened before the dead letter is written. If it were opened later, a
                # finished record behind it could move the watermark past it, and a crash would lose it.
                self.partitions.open(record.place)
                self._background.spawn(self._dead_letter(change))
            case Unreadable() if not self.partitions.ready:
                # It was in the log before we joined, so an earlier owner has written it to the dead letters. Without
                # this, every start would write it once more.
                logger.info("skipped", extra={"place": str(change.record.place), "reason": change.reason})
            case Unreadable():
                self._background.spawn(self._dead_letter(change))
            case CardRead(card=card):
                self._pool.learn(card)

    def _read_task(self, read: TaskChange) -> None:
        if read.state.ended:
            self.partitions.open(read.place)
            self.partitions.close([read.place])
            return
        self.partitions.open(read.place, read.task.task_id)
        if read.first and not self.partitions.is_catching_up(read.place.partition):
            self._admit(read.task, read.place.partition, read.state, read.refusal)

    def _read_event(self, read: EventChange) -> None:
        event = read.event
        if isinstance(event, Released):
            self.attempts.note_release(event)
        if self.partitions.is_catching_up(read.partition):
            if read.after.ended:
                self.partitions.end(event.task_id)
        elif needs_review(event, read.before, read.after, self._owner):
            self._decide(event.task_id, read.after)

    def _admit(self, task: Task, partition: Partition, state: TaskState, refusal: TaskError | None) -> None:
        """Queue, watch or end an unfinished task whose events up to now have been read."""
        if isinstance(refusal, NotUnderstood):
            # It gets no place in the queue, so it cannot start here. Its record stays open, so the
            # next owner of the partition reads it again.
            logger.warning("left to a newer version", extra={"task_id": task.task_id, "reason": refusal.detail})
        elif refusal is not None:
            self._end(task, partition, refusal)
            return
        else:
            self.queues.add(task, partition, state)
        if task.start_deadline is not None and state.attempt == 0:
            expires = self._monotonic(task.start_deadline)
            if expires <= self._clock.monotonic():
                self._end_queued(task.task_id, StartedTooLate())
                return
            self._timers.set((EXPIRE, task.task_id), expires)
        # This process does not know when the delay after the last attempt began, so it counts as over.
        self._decide(task.task_id, replace(state, delay=0.0))

    def _decide(self, task_id: str, state: TaskState) -> None:
        """Do what `next_action` says about a task of our partitions in this state."""
        action = next_action(state, self.attempts.number(task_id), self._owner)
        self.attempts.apply(task_id, action)
        match action:
            case Close():
                for purpose in PURPOSES:
                    self._timers.clear((purpose, task_id))
                self.queues.remove(task_id)
                self.partitions.end(task_id)
            case Keep() | Stop():
                return
            case Watch():
                self.queues.serve(task_id)
                self._timers.clear((AGAIN, task_id))
                self._timers.set((LEASE, task_id), lease_ends(self._clock.monotonic()) - LAST_LOOK_SECONDS)
            case End(error):
                self._end_queued(task_id, error)
            case Offer(delay) if delay > 0:
                self._timers.clear((LEASE, task_id))
                self._timers.set((AGAIN, task_id), self._clock.monotonic() + delay)
            case Offer():
                self._timers.clear((LEASE, task_id))
                self._timers.clear((AGAIN, task_id))
                if task_id in self.queues:
                    self.queues.restore(task_id)
                else:
                    self._leave_to_newer_version(task_id)

    def _leave_to_newer_version(self, task_id: str) -> None:
        """Fail a task that this version does not understand if its time is over; else set a timer for that time."""
        seen = self._view.get(task_id)
        if seen is None or seen.task is None or not isinstance(seen.refusal, NotUnderstood):
            return
        until = self._monotonic(seen.task.created_at + self._not_understood_wait)
        if until <= self._clock.monotonic():
            self._end_queued(task_id, seen.refusal)
        else:
            self._timers.set((AGAIN, task_id), until)

    def _catch_up(self) -> None:
        """Admit the tasks of the partitions whose events have now been read up to their end at assignment."""
        if self.partitions.ready:
            return
        for partition in self.partitions.caught_up(self._view.offsets()):
            for seen in self._view.unfinished(partition):
                if seen.task is not None:
                    self._admit(seen.task, partition, seen.state, seen.refusal)

    def dispatch(self) -> None:
        """Start every task that is next in its model's queue and for which a runner has room."""
        if self._stopping:
            return
        for model in self.queues.models():
            queue = self.queues.queue(model)
            while self.attempts.storing < self._max_unstored and self._pool.has_room(model) and (entry := queue.peek()):
                task_id = entry.task_id
                seen = self._view.get(task_id)
                if seen is None or seen.task is None or seen.state.ended:
                    self.queues.remove(task_id)
                    continue
                if task_id in self.attempts:
                    # Its partition was lost and came back while the attempt went on here.
                    self.queues.serve(task_id)
                    continue
                slot = self._pool.take(model, seen.task.image_params.pixels)
                if slot is None:
                    break
                self._timers.clear((EXPIRE, task_id))
                self.queues.serve(task_id)
                self.attempts.start(seen.task, seen.partition, seen.state, slot)

    def _may_begin(self, attempt: Attempt) -> bool:
        return may_begin(self._state(attempt.task.task_id), attempt.number)

    def _attempt_over(self, attempt: Attempt) -> None:
        # If our Released event was read before this point, no later event will trigger a decision: decide now.
        if attempt.release_seen and (state := self._state(attempt.task.task_id)) is not None:
            self._decide(attempt.task.task_id, state)
        self.dispatch()

    def _state(self, task_id: str) -> TaskState | None:
        """The state of a task whose partition is owned and caught up; None for any other task."""
        seen = self._view.get(task_id)
        return seen.state if seen is not None and self.partitions.may_act(seen.partition) else None

    def _end_queued(self, task_id: str, error: TaskError) -> None:
        seen = self._view.get(task_id)
        if seen is not None and seen.task is not None and not seen.state.ended and task_id not in self.attempts:
            self._end(seen.task, seen.partition, error)

    def _end(self, task: Task, partition: Partition, error: TaskError) -> None:
        """Write the outcome of a task that has no attempt here. Its record is closed when its Outcome event is read."""
        if task.task_id not in self._ending:
            self._ending.add(task.task_id)
            self.queues.remove(task.task_id)
            self._background.spawn(self._write_end(task, partition, error))

    async def _write_end(self, task: Task, partition: Partition, error: TaskError) -> None:
        try:
            await self._handler.finish(task, partition, error=error)
        finally:
            self._ending.discard(task.task_id)

    async def _dead_letter(self, change: Unreadable) -> None:
        await self._handler.dead_letter(change.record, change.reason)
        if change.record.kind == "task":
            self.partitions.close([change.record.place])

    def _monotonic(self, unix: float) -> float:
        return self._clock.monotonic() + unix - self._clock.now()

    def _give_up(self, partitions: frozenset[Partition]) -> None:
        """The group gave these partitions to another owner. Their queued tasks are forgotten. Attempts that a runner
        has accepted go on, because the next owner leaves a task alone while its events keep arriving."""
        self.partitions.drop(partitions)
        self.attempts.stop_unaccepted(partitions)
        self.attempts.orphan(partitions)
        for task_id in self.queues.forget(partitions):
            for purpose in PURPOSES:
                self._timers.clear((purpose, task_id))
        self._view.forget(partitions)

    def start_no_more(self) -> None:
        """Start no task from now on, and stop the attempts that no runner has accepted: the next owner starts them."""
        self._stopping = True
        self.attempts.stop_unaccepted(self.partitions.owned)
