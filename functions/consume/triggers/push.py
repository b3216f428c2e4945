"""The push consumer: a platform delivers task records, and each is brought to its outcome.

There is no queue and no fairness here: the platform commits the offsets and decides how many records it delivers at
once. What is done about a task is decided as in the worker, from the state that its events give (`tasks.ownership`). So
a cancel ends a task that waits or runs, a record that is delivered to two processes runs in one of them, and the
attempts of a task are numbered and counted over all deliveries of its record.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.runner_client import HttpRunner, resolve, runner_session
from adapters.s3_store import S3Store
from config.settings import Settings
from functions.consume.attempt import Attempt
from functions.consume.consumer import Consumer, build_consumer
from functions.consume.publish_models import published_models
from functions.consume.runner_pool import Slot
from functions.consume.triggers.task_events import FollowedTask, TaskEvents
from tasks.capabilities import ServedModel
from tasks.errors import Canceled, NotUnderstood, RanTooLong, StartedTooLate, UntrustedOutcome
from tasks.events import Outcome, Released
from tasks.lease import LEASE_SECONDS
from tasks.log import Partition, Record
from tasks.ownership import Close, End, Offer, Watch, after_lease, may_begin, next_action
from tasks.ports import Clock, TaskLog
from tasks.reading import TaskRead, Unreadable, read_record
from tasks.retry import MAX_TRIES
from tasks.task import Task

logger = logging.getLogger(__name__)

REDELIVER_SECONDS = 30.0
"""Seconds after which a platform may deliver again a task that this version does not understand."""
MARGIN_SECONDS = 5.0
"""Seconds before the platform ends a delivery at which unfinished tasks are given back."""
RELEASE_SECONDS = 3.0
"""Seconds that the Released event of an attempt that is given back may take: less than the margin."""
WHOLE_SHARE = 0.9
"""An attempt that had this share of a delivery's time and is given back counts as a try, because it would hardly end at
the next delivery either. The task fails with ran_too_long at its last try. An attempt that began later does not count.
"""


class OutOfTime(Exception):
    """The task has no outcome yet, and the time of the delivery is over: the record must be delivered again."""


class PushConsumer:
    """One process to which a platform delivers records."""

    def __init__(
        self, consumer: Consumer, lanes: Sequence[str], task_log: TaskLog, clock: Clock, not_understood_wait: float
    ) -> None:
        """Uses the handler and the runners of the consumer, whose dispatcher is never started. A task that needs a
        newer version fails `not_understood_wait` seconds after it was created."""
        self._handler = consumer.handler
        self._pool = consumer.pool
        self._task_log = task_log
        self._clock = clock
        self._not_understood_wait = not_understood_wait
        self._events = TaskEvents(task_log, clock, consumer.handler.owner)
        self._models: dict[str, ServedModel] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Event()
        self.lanes = lanes
        self.metrics = consumer.metrics
        self._pool.changed = self._has_room

    async def prepare(self) -> None:
        """Read from the log what each model can do, also a model whose runners are all away; then ask the runners."""
        self._models = await published_models(self._task_log)
        await self.look()

    async def look(self) -> None:
        """Ask every runner what it can do: while the platform paused this process, the answers may have changed."""
        await self._pool.look()

    async def finish_all(self, records: Sequence[Record], seconds: float) -> list[Record]:
        """Bring the tasks of these records to their outcomes. Returns, in their order, the records to deliver again:
        those without an outcome after this many seconds, those left to a newer version, and those that met an internal
        error."""
        results = await self._deliver(records, seconds)
        left = [
            (record, error) for record, error in zip(records, results, strict=True) if isinstance(error, BaseException)
        ]
        for record, error in left:
            if not isinstance(error, NotUnderstood | OutOfTime):
                logger.error("internal error", exc_info=error, extra={"place": str(record.place)})
        return [record for record, _ in left]

    async def finish(self, record: Record, seconds: float) -> Outcome | None:
        """Bring the task of the record to its outcome, in as many attempts as that takes. None: the record cannot be
        read and is in the dead letters. Cancelling the call releases the attempt.

        The platform must deliver the record again after OutOfTime (this many seconds are over) and after NotUnderstood
        (the task is left to a newer version).
        """
        (result,) = await self._deliver([record], seconds)
        if isinstance(result, BaseException):
            raise result
        return result

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Append to the dead letters a record that the platform will not deliver again."""
        await self._handler.dead_letter(record, reason)

    async def close(self) -> None:
        """Stop reading the events."""
        await self._events.close()

    async def _deliver(self, records: Sequence[Record], seconds: float) -> list[Outcome | BaseException | None]:
        """What became of each record. A record without an outcome after this many seconds gets OutOfTime."""
        appended: dict[Partition, float] = {}
        for record in records:
            partition = record.place.partition
            appended[partition] = min(record.timestamp, appended.get(partition, record.timestamp))
        caught_up = asyncio.ensure_future(self._events.catch_up(appended))
        whole = WHOLE_SHARE * seconds
        work = [asyncio.ensure_future(self._finish(record, caught_up, whole)) for record in records]
        limit = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            while not limit.done() and (pending := [future for future in work if not future.done()]):
                await asyncio.wait((limit, *pending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (limit, caught_up, *work):
                future.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
            await asyncio.gather(caught_up, return_exceptions=True)
        for record, result in zip(records, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                logger.warning("no outcome in time", extra={"place": str(record.place)})
        return [OutOfTime() if isinstance(result, asyncio.CancelledError) else result for result in results]

    async def _finish(self, record: Record, caught_up: "asyncio.Future[None]", whole: float) -> Outcome | None:
        read = read_record(record, self._models | self._pool.models(), self.lanes)
        assert isinstance(read, TaskRead | Unreadable)
        if isinstance(read, Unreadable):
            await self._handler.dead_letter(record, read.reason)
            return None
        task, partition = read.task, record.place.partition
        async with self._locks.setdefault(task.task_id, asyncio.Lock()):
            if outcome := await self._stored(task, partition):
                return outcome
            if read.refusal is not None and not isinstance(read.refusal, NotUnderstood):
                return await self._handler.finish(task, partition, error=read.refusal)
            await asyncio.shield(caught_up)
            async with self._events.follow(task.task_id) as followed:
                if read.refusal is not None:
                    return await self._leave_to_newer_version(task, partition, followed, read.refusal)
                return await self._attempts(task, partition, followed, whole)

    async def _stored(self, task: Task, partition: Partition) -> Outcome | None:
        """The outcome that the task has in the store, announced: an earlier delivery may have written it alone."""
        try:
            outcome = await self._handler.stored_outcome(task.task_id)
        except UntrustedOutcome as forged:
            return await self._handler.finish(task, partition, error=forged)
        if outcome is not None:
            await self._handler.announce(outcome, partition)
        return outcome

    async def _leave_to_newer_version(
        self, task: Task, partition: Partition, followed: FollowedTask, refusal: NotUnderstood
    ) -> Outcome:
        now = self._clock.now()
        if followed.state.cancel_requested:
            return await self._handler.finish(task, partition, error=Canceled())
        if task.start_deadline is not None and task.start_deadline <= now:
            return await self._handler.finish(task, partition, error=StartedTooLate())
        if task.created_at + self._not_understood_wait <= now:
            return await self._handler.finish(task, partition, error=refusal)
        logger.warning("left to a newer version", extra={"task_id": task.task_id, "reason": refusal.detail})
        raise NotUnderstood(refusal.detail, retry_after=REDELIVER_SECONDS)

    async def _attempts(self, task: Task, partition: Partition, followed: FollowedTask, whole: float) -> Outcome | None:
        """Do what `next_action` says about the task until it has its outcome, as the worker's dispatcher does."""
        while True:
            match next_action(followed.state, None, self._handler.owner):
                case Close():
                    # Another process ended the task. None if the store no longer has the outcome.
                    return await self._stored(task, partition)
                case End(error):
                    return await self._handler.finish(task, partition, error=error)
                case Watch():
                    if not await self._changes(followed, LEASE_SECONDS):
                        followed.state = after_lease(followed.state)
                case Offer(delay) if delay > 0:
                    if not await self._changes(followed, delay):
                        followed.state = after_lease(followed.state)
                case Offer():
                    expires = task.start_deadline if followed.state.attempt == 0 else None
                    left = None if expires is None else expires - self._clock.now()
                    if left is not None and left <= 0:
                        return await self._handler.finish(task, partition, error=StartedTooLate())
                    if slot := self._pool.take(task.model_name, task.image_params.pixels):
                        if outcome := await self._attempt(task, partition, followed, slot, whole):
                            return outcome
                    else:
                        await self._changes(followed, left, self._room)

    async def _attempt(
        self, task: Task, partition: Partition, followed: FollowedTask, slot: Slot, whole: float
    ) -> Outcome | None:
        """One attempt. None: it was released, or it did not begin because the task's state had changed."""
        attempt = Attempt.after(followed.state, task, partition, self._clock.now())
        followed.attempt, began = attempt, self._clock.monotonic()
        try:
            result = await self._handler.run(attempt, slot, lambda attempt: may_begin(followed.state, attempt.number))
        except asyncio.CancelledError:
            await self._give_back(attempt, counts=self._clock.monotonic() - began >= whole)
            raise
        finally:
            followed.attempt = None
        if isinstance(result, Released):
            if attempt.accepted:
                # The event is in the log, and may be read later than the next decision is made.
                followed.apply(result, self._handler.owner)
            return None
        return result

    async def _give_back(self, attempt: Attempt, *, counts: bool) -> None:
        """Write that the attempt ended without an outcome, so that the next delivery can begin at once.

        The platform may freeze this process when the delivery ends, so the event must be in the log by then. If Kafka
        does not take it in time, the next delivery waits until the lease expires.
        """
        if not attempt.accepted:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                if counts and attempt.tries >= MAX_TRIES:
                    error = RanTooLong(f"It did not end in {MAX_TRIES} deliveries of the platform.")
                    await self._handler.finish(attempt.task, attempt.partition, attempt=attempt, error=error)
                else:
                    code = RanTooLong.code() if counts else "shutting_down"
                    await self._handler.release(attempt, code, 0.0, counts)

    async def _changes(self, followed: FollowedTask, seconds: float | None, *others: asyncio.Event) -> bool:
        """Wait for the next event of the task, for any of `others`, or for so many seconds (None: without limit).
        Whether an event of the task was read."""
        changed = followed.changed
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait()) for event in (changed, *others)]
        if seconds is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return changed.is_set()

    def _has_room(self) -> None:
        self._room.set()
        self._room = asyncio.Event()


@asynccontextmanager
async def open_push_consumer(settings: Settings) -> AsyncIterator[PushConsumer]:
    """A push consumer on the real log, store and runners, ready for its first record. Raises StoreUnavailable."""
    clock, task_log, store = SystemClock(), KafkaLog(settings), S3Store(settings)
    try:
        await store.check()
        async with runner_session(settings.runner_secret) as session:
            consumer = build_consumer(
                settings,
                task_log=task_log,
                store=store,
                clock=clock,
                addresses=lambda: resolve(settings.runner_urls),
                connect=lambda url: HttpRunner(url, session),
            )
            push = PushConsumer(consumer, settings.lane_names, task_log, clock, settings.not_understood_wait)
            await push.prepare()
            watch = asyncio.ensure_future(consumer.pool.watch())
            try:
                yield push
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
                await push.close()
                consumer.view.close()
    finally:
        await task_log.close()
        store.close()
