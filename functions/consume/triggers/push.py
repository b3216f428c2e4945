"""Tasks that a platform hands over one by one: no queue and no fairness of ours, the same handler to the same outcome.

The platform commits the offsets and decides how many tasks come at once. Nobody reads events here, so a cancel of a
running task comes too late, and a task handed over twice to two processes may run twice; its outcome is still one.
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
from tasks.errors import StartedTooLate
from tasks.events import Outcome
from tasks.log import Record
from tasks.ports import Clock, TaskLog
from tasks.reading import CardRead, TaskRead, Unreadable, read_record
from tasks.task import Task

log = logging.getLogger(__name__)


class PushConsumer:
    """One process that is fed by a platform."""

    def __init__(self, consumer: Consumer, lanes: Sequence[str], log: TaskLog, clock: Clock) -> None:
        """Uses the consumer's handler and runners; its dispatcher is never started."""
        self._handler = consumer.handler
        self._pool = consumer.pool
        self._lanes = lanes
        self._log = log
        self._clock = clock
        self._cards: dict[str, ServedModel] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Event()
        self.lanes = lanes
        self.metrics = consumer.metrics
        self._pool.changed = self._has_room

    async def prepare(self) -> None:
        """Learn what every model can do, also those whose runners are all away, and who answers now."""
        async with aclosing(self._log.follow({})) as batches:
            async for batch in batches:
                for record in batch.records:
                    read = read_record(record, self._cards, self._lanes) if record.kind == "card" else None
                    if isinstance(read, CardRead):
                        self._cards[read.card.model] = read.card
                if batch.starts:
                    break
        await self.look()

    async def look(self) -> None:
        """Ask every runner what it can do: after a pause nothing known of them may still be true."""
        await self._pool.look()

    async def finish_all(self, records: Sequence[Record], seconds: float) -> list[Record]:
        """Bring the tasks of these records to their outcomes; those that have none after so many seconds, or failed
        by a mistake of ours, are the answer, given back in their order."""
        work = [asyncio.ensure_future(self.finish(record)) for record in records]
        deadline = asyncio.ensure_future(self._clock.sleep(seconds))
        while not deadline.done() and (pending := [one for one in work if not one.done()]):
            await asyncio.wait((deadline, *pending), return_when=asyncio.FIRST_COMPLETED)
        for one in (deadline, *work):
            one.cancel()
        ends = await asyncio.gather(*work, return_exceptions=True)
        left = []
        for record, end in zip(records, ends, strict=True):
            if isinstance(end, BaseException):
                log.error("not finished: %s", record.place, exc_info=end if isinstance(end, Exception) else None)
                left.append(record)
        return left

    async def finish(self, record: Record) -> Outcome | None:
        """Bring the task of the record to its outcome, however often it takes; None: nobody can read the record, and
        it lies with the dead letters. Cancelling gives the attempt back."""
        read = read_record(record, self._cards | self._pool.cards(), self._lanes)
        assert isinstance(read, TaskRead | Unreadable)
        if isinstance(read, Unreadable):
            await self._handler.dead_letter(record, read.reason)
            return None
        lock = self._locks.setdefault(read.task.task_id, asyncio.Lock())
        async with lock:
            if stands := await self._handler.stored_outcome(read.task.task_id):
                await self._handler.announce(stands, record.place.partition)
                return stands
            if read.refusal is not None:
                return await self._handler.finish(read.task, record.place.partition, error=read.refusal)
            return await self._attempts(read.task, record.place.partition)

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
                ended = await self._handler.run(attempt, slot)
            except asyncio.CancelledError:
                self._handler.release_on_exit(attempt)
                raise
            finally:
                slot.release()
            if isinstance(ended, Outcome):
                return ended
            tries += ended.counts
            await self._clock.sleep(ended.delay)

    async def _slot(self, task: Task, *, expires: bool) -> Slot | None:
        """Room at a runner, or None when it came too late."""
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
    """A process on the real log, store and runners, ready for its first task. Raises StoreUnavailable."""
    clock, kafka, store = SystemClock(), KafkaLog(settings), S3Store(settings)
    try:
        await store.check()
        async with runner_session() as session:
            consumer = build_consumer(
                settings,
                log=kafka,
                store=store,
                clock=clock,
                addresses=lambda: resolve(settings.runner_urls),
                connect=lambda url: HttpRunner(url, session),
            )
            fed = PushConsumer(consumer, settings.lane_names, kafka, clock)
            await fed.prepare()
            watch = asyncio.ensure_future(consumer.pool.watch())
            try:
                yield fed
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
    finally:
        await kafka.close()
        store.close()
