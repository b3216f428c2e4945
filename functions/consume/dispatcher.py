"""Partitions, queues and runner slots: what to do with everything the log delivers, and which task is next.

All state moves on what is read from the log; the dispatcher runs in one event loop and holds no lock.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from adapters.view import CardRead, Change, EventRead, TaskRead, Unreadable, View
from functions.consume.alarms import Alarms
from functions.consume.handler import Attempt, Handler
from functions.consume.metrics import Metrics
from functions.consume.runner_pool import RunnerPool, Slot
from tasks.errors import Canceled, RunnerBusy, StartedTooLate, TaskError
from tasks.events import CancelRequested, Outcome, Released, Started
from tasks.lease import lease_ends
from tasks.ports import Assigned, Clock, Delivery, Partition, Place, Records, Revoked, TaskLog
from tasks.queues import Queues
from tasks.state import TaskState
from tasks.task import Task
from tasks.watermark import Watermark

log = logging.getLogger(__name__)


class Dispatcher:
    """One owner's share of the work."""

    def __init__(
        self,
        *,
        log: TaskLog,
        view: View,
        queues: Queues,
        pool: RunnerPool,
        handler: Handler,
        clock: Clock,
        metrics: Metrics,
        max_unstored: int,
    ) -> None:
        """Wire it up; `run` starts it. It hands out nothing while `max_unstored` finished tasks wait to be stored."""
        self._log = log
        self._view = view
        self._queues = queues
        self._pool = pool
        self._handler = handler
        self._clock = clock
        self._metrics = metrics
        self._max_unstored = max_unstored
        self._alarms = Alarms(clock)
        self._attempts: dict[str, Attempt] = {}
        self._ending: set[str] = set()
        self._catching_up: dict[Partition, int] = {}
        self._owned: set[Partition] = set()
        self._watermarks: dict[tuple[str, Partition], Watermark] = defaultdict(Watermark)
        self._places: dict[str, list[Place]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._stopping = False
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
        async with contextlib.aclosing(self._log.own()) as deliveries:
            async for delivery in deliveries:
                self.take(delivery)

    @property
    def ready(self) -> bool:
        """Whether it has read all it must know before it starts a task."""
        return bool(self._owned) and not self._catching_up

    def take(self, delivery: Delivery) -> None:
        """Take in one delivery and hand out what can be started now."""
        match delivery:
            case Assigned():
                for partition, until in delivery.events_until.items():
                    self._owned.add(partition)
                    self._catching_up[partition] = until
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
            case TaskRead():
                self._task_read(change)
            case EventRead():
                self._event_read(change)
            case Unreadable(record=record):
                if record.kind == "task":
                    # Now, not in `_bury`: a later offset, once opened, would let this one pass.
                    self._watermarks[record.place.topic, record.place.partition].opened(record.place.offset)
                self._spawn(self._bury(change))
            case CardRead():
                return

    def _task_read(self, read: TaskRead) -> None:
        place = read.place
        self._watermarks[place.topic, place.partition].opened(place.offset)
        if read.state.ended:
            self._close([place])
            return
        self._places.setdefault(read.task.task_id, []).append(place)
        if read.first and place.partition not in self._catching_up:
            self._take_in(read.task, place.partition, read.state, read.refusal)

    def _take_in(self, task: Task, partition: Partition, state: TaskState, refusal: TaskError | None) -> None:
        if refusal is not None:
            self._conclude(task, partition, refusal)
            return
        self._queues.add(task, partition, state)
        if task.start_deadline is not None and state.attempt == 0:
            self._alarms.set(("expires", task.task_id), self._monotonic(task.start_deadline))
        if state.status == "running":
            self._watch_lease(task.task_id)
        if state.cancel_requested:
            self._cancel(task.task_id, state)

    def _event_read(self, read: EventRead) -> None:
        task_id, event = read.event.task_id, read.event
        if read.partition in self._catching_up:
            if read.after.ended:
                self._close(self._places.pop(task_id, []))
            return
        mine = self._attempts.get(task_id)
        match event:
            case Outcome():
                self._alarms.clear(("lease", task_id))
                self._alarms.clear(("expires", task_id))
                self._queues.move(task_id, read.after)
                self._close(self._places.pop(task_id, []))
            case CancelRequested() if not read.after.ended:
                self._cancel(task_id, read.after)
            case Released() if read.after.status == "queued" and read.after != read.before:
                self._alarms.clear(("lease", task_id))
                self._alarms.set(("delayed", task_id), self._clock.monotonic() + read.after.delay)
            case Started() if mine is not None and event.attempt > mine.number:
                # Our lease had lapsed: what we still make of it would be thrown away, and how it ends is not ours to
                # say. An error that costs no try only releases it; a release of an attempt that is past moves nothing.
                mine.stop(RunnerBusy("Another owner took the task over."))
            case _ if mine is None and read.after.status == "running":
                self._queues.move(task_id, read.after)
                self._watch_lease(task_id)

    def _catch_up(self) -> None:
        offsets = None
        for partition, until in tuple(self._catching_up.items()):
            offsets = offsets or self._events_read()
            if offsets.get(partition, 0) >= until:
                del self._catching_up[partition]
                for known in self._view.unfinished(partition):
                    if known.task is not None:
                        self._take_in(known.task, partition, known.state, known.refusal)

    def _events_read(self) -> dict[Partition, int]:
        return {p: end for (topic, p), end in self._view.offsets().items() if topic == self._log.events_topic}

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
                slot = self._pool.take(model, params.width * params.height * params.num_images)
                if slot is None:
                    break
                self._start(known.task, known.partition, known.state, slot)

    def _start(self, task: Task, partition: Partition, state: TaskState, slot: Slot) -> None:
        task_id = task.task_id
        attempt = Attempt(
            task=task,
            partition=partition,
            number=state.attempt + 1,
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
            if attempt.number > 1 and (stands := await self._handler.known_outcome(task_id)):
                slot.release()
                await self._handler.announce(stands, attempt.partition)
                return
            ended = await self._handler.run(attempt, slot)
            if isinstance(ended, Released):
                self._queue_again(ended)
        finally:
            slot.release()
            del self._attempts[task_id]
            self._metrics.running.dec()
            self.dispatch()

    def _queue_again(self, released: Released) -> None:
        """Its release may have been read while the attempt was still ours, or speak of a start nobody heard of."""
        known = self._view.get(released.task_id)
        if known is not None and known.state.status == "queued":
            self._alarms.set(("delayed", released.task_id), self._clock.monotonic() + released.delay)

    def _cancel(self, task_id: str, state: TaskState) -> None:
        if task_id in self._attempts:
            self._attempts[task_id].stop(Canceled())
        elif state.status == "queued":
            self._end_queued(task_id, Canceled())

    def _end_queued(self, task_id: str, error: TaskError) -> None:
        known = self._view.get(task_id)
        if known is not None and known.task is not None and not known.state.ended and task_id not in self._attempts:
            self._conclude(known.task, known.partition, error)

    def _conclude(self, task: Task, partition: Partition, error: TaskError) -> None:
        if task.task_id in self._ending:
            return
        self._ending.add(task.task_id)
        self._queues.move(task.task_id, TaskState(status="failed"))
        self._spawn(self._conclude_now(task, partition, error))

    async def _conclude_now(self, task: Task, partition: Partition, error: TaskError) -> None:
        try:
            await self._handler.conclude(task, partition, error=error)
        finally:
            self._ending.discard(task.task_id)

    async def _bury(self, change: Unreadable) -> None:
        await self._handler.bury(change.record, change.reason)
        if change.record.kind == "task":
            self._close([change.record.place])

    async def _ring(self) -> None:
        async for kind, task_id in self._alarms.ring():
            known = self._view.get(task_id)
            if known is None or known.state.ended or task_id in self._attempts:
                continue
            if kind == "expires":
                self._expire(task_id, known.state)
            else:
                # A lapsed lease or a delay that is over: it is anybody's, which means ours.
                self._queues.move(task_id, TaskState(status="queued"))
                if known.state.cancel_requested:
                    self._end_queued(task_id, Canceled())
                self.dispatch()

    def _expire(self, task_id: str, state: TaskState) -> None:
        if state.attempt == 0:
            self._end_queued(task_id, StartedTooLate())

    def _watch_lease(self, task_id: str) -> None:
        self._alarms.set(("lease", task_id), lease_ends(self._clock.monotonic()))

    def _storing(self) -> int:
        return sum(attempt.storing for attempt in self._attempts.values())

    def _monotonic(self, unix: float) -> float:
        return self._clock.monotonic() + unix - self._clock.now()

    def _close(self, places: list[Place]) -> None:
        for place in places:
            watermark = self._watermarks.get((place.topic, place.partition))
            if watermark is not None and place.partition in self._owned:
                watermark.closed(place.offset)
                self._log.commit(place.topic, place.partition, watermark.value)

    def _drop(self, partitions: frozenset[Partition]) -> None:
        self._owned -= partitions
        for partition in partitions:
            self._catching_up.pop(partition, None)
        for task_id in self._queues.forget(partitions):
            for kind in ("lease", "delayed", "expires"):
                self._alarms.clear((kind, task_id))
        self._places = {
            task_id: kept
            for task_id, places in self._places.items()
            if (kept := [place for place in places if place.partition not in partitions])
        }
        for key in [key for key in self._watermarks if key[1] in partitions]:
            del self._watermarks[key]
        self._view.forget(partitions)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) and self._failure and not self._failure.done():
            # What was lost with it is in the log: a new start picks it up.
            self._failure.set_exception(error)

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

    async def stop(self, grace: float) -> None:
        """Start nothing more; give what runs `grace` seconds to end, then give it back so that nobody need wait."""
        self._stopping = True
        deadline = asyncio.ensure_future(self._clock.sleep(grace))
        while self._background and not deadline.done():
            await asyncio.wait((deadline, *self._background), return_when=asyncio.FIRST_COMPLETED)
        deadline.cancel()
        left = tuple(self._attempts.values())
        for work in self._background:
            work.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for attempt in left:
            self._handler.give_back(attempt)
