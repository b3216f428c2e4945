"""The push consumer: a platform delivers task records one by one, and each is brought to its outcome.

There is no queue and no fairness here: the platform commits the offsets and decides how many records it delivers at
once. The process reads no events, so a cancel does not stop a running task, and a record that is delivered to two
processes at the same time may run twice. The outcome is still written once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.runner_client import HttpRunner, resolve, runner_session
from adapters.s3_store import S3Store
from config.settings import Settings
from functions.consume.attempt import Attempt
from functions.consume.consumer import Consumer, build_consumer
from functions.consume.runner_pool import Slot
from tasks.capabilities import ServedModel
from tasks.errors import NotUnderstood, StartedTooLate, UntrustedOutcome
from tasks.events import Outcome
from tasks.log import Record
from tasks.ports import Clock, TaskLog
from tasks.reading import CardRead, TaskRead, Unreadable, read_record
from tasks.task import Task

logger = logging.getLogger(__name__)

REDELIVER_SECONDS = 30.0
"""Seconds after which a platform may deliver again a task that this version does not understand."""


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
        self._models: dict[str, ServedModel] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Event()
        self.lanes = lanes
        self.metrics = consumer.metrics
        self._pool.changed = self._has_room

    async def prepare(self) -> None:
        """Read from the log what each model can do, also a model whose runners are all away; then ask the runners."""
        async with aclosing(self._task_log.follow({})) as batches:
            async for batch in batches:
                for record in batch.records:
                    read = read_record(record, self._models, self.lanes) if record.kind == "card" else None
                    if isinstance(read, CardRead):
                        self._models[read.card.model] = read.card
                if batch.starts:
                    break
        await self.look()

    async def look(self) -> None:
        """Ask every runner what it can do: while the platform paused this process, the answers may have changed."""
        await self._pool.look()

    async def finish_all(self, records: Sequence[Record], seconds: float) -> list[Record]:
        """Bring the tasks of these records to their outcomes. Returns, in their order, the records to deliver again:
        those without an outcome after this many seconds, those left to a newer version, and those that met an internal
        error."""
        work = [asyncio.ensure_future(self.finish(record)) for record in records]
        deadline = asyncio.ensure_future(self._clock.sleep(seconds))
        while not deadline.done() and (pending := [future for future in work if not future.done()]):
            await asyncio.wait((deadline, *pending), return_when=asyncio.FIRST_COMPLETED)
        for future in (deadline, *work):
            future.cancel()
        results = await asyncio.gather(*work, return_exceptions=True)
        left = []
        for record, result in zip(records, results, strict=True):
            if isinstance(result, BaseException):
                left.append(record)
                if isinstance(result, asyncio.CancelledError):
                    logger.warning("no outcome in time", extra={"place": str(record.place)})
                elif not isinstance(result, NotUnderstood):
                    logger.error("internal error", exc_info=result, extra={"place": str(record.place)})
        return left

    async def finish(self, record: Record) -> Outcome | None:
        """Bring the task of the record to its outcome, in as many attempts as that takes. None: the record cannot be
        read and is in the dead letters. Cancelling the call releases the attempt.

        Raises NotUnderstood while the task is left to a newer version: the platform must deliver the record again.
        """
        read = read_record(record, self._models | self._pool.models(), self.lanes)
        assert isinstance(read, TaskRead | Unreadable)
        if isinstance(read, Unreadable):
            await self._handler.dead_letter(record, read.reason)
            return None
        task, partition = read.task, record.place.partition
        lock = self._locks.setdefault(task.task_id, asyncio.Lock())
        async with lock:
            try:
                outcome = await self._handler.stored_outcome(task.task_id)
            except UntrustedOutcome as forged:
                return await self._handler.finish(task, partition, error=forged)
            if outcome is not None:
                await self._handler.announce(outcome, partition)
                return outcome
            if isinstance(read.refusal, NotUnderstood):
                return await self._leave_to_newer_version(task, partition, read.refusal)
            if read.refusal is not None:
                return await self._handler.finish(task, partition, error=read.refusal)
            return await self._attempts(task, partition)

    async def _leave_to_newer_version(self, task: Task, partition: int, refusal: NotUnderstood) -> Outcome:
        now = self._clock.now()
        if task.start_deadline is not None and task.start_deadline <= now:
            return await self._handler.finish(task, partition, error=StartedTooLate())
        if task.created_at + self._not_understood_wait <= now:
            return await self._handler.finish(task, partition, error=refusal)
        logger.warning("left to a newer version", extra={"task_id": task.task_id, "reason": refusal.detail})
        raise NotUnderstood(refusal.detail, retry_after=REDELIVER_SECONDS)

    async def _attempts(self, task: Task, partition: int) -> Outcome:
        number = tries = 0
        while True:
            slot = await self._slot(task, expires=number == 0)
            if slot is None:
                return await self._handler.finish(task, partition, error=StartedTooLate())
            number += 1
            queued = max(0.0, self._clock.now() - task.created_at)
            attempt = Attempt(task=task, partition=partition, number=number, tries=tries + 1, queued_seconds=queued)
            try:
                result = await self._handler.run(attempt, slot)
            except asyncio.CancelledError:
                self._handler.release_on_exit(attempt)
                raise
            assert result is not None
            if isinstance(result, Outcome):
                return result
            tries += result.counts
            await self._clock.sleep(result.delay)

    async def _slot(self, task: Task, *, expires: bool) -> Slot | None:
        """Room at a runner, or None if there was none within start_within."""
        params = task.image_params
        pixels = params.pixels
        while True:
            left = task.start_deadline - self._clock.now() if expires and task.start_deadline is not None else None
            if left is not None and left <= 0:
                return None
            if slot := self._pool.take(task.model_name, pixels):
                return slot
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._room.wait())]
            if left is not None:
                waits.append(asyncio.ensure_future(self._clock.sleep(left)))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

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
                consumer.view.close()
    finally:
        await task_log.close()
        store.close()
