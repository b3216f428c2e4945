"""Reading Kafka: a thread that polls without pause and hands runs of records to the event loop.

A Consumer belongs to its thread, so commits are left for that thread to make. Everything is read ahead; a bounded queue
between thread and loop is the only back-pressure.
"""

import asyncio
import bisect
import contextlib
import logging
import operator
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec, ResourceType

from adapters.kafka_client import Outage, client_config
from config.settings import Settings
from tasks.ports import Assigned, Delivery, Partition, Place, Record, RecordKind, Records, Revoked

log = logging.getLogger(__name__)

_RUN = 500
"""Records handed over at once: some 10 ms of work for who takes them."""
_QUEUED_RUNS = 8
_POLL_SECONDS = 0.05
_CALL_SECONDS = 5.0
_HANDOVER_SECONDS = 10.0
_COMMIT_SECONDS = 0.2
_MARGIN_MS = 60_000
"""How far the clocks of two brokers may differ."""
_NOT_THERE = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._TRANSPORT,
}
_SESSION = {"consumer.session.timeout.ms": "6000", "consumer.heartbeat.interval.ms": "1000"}


class _Reader:
    """The thread, and the queue out of it."""

    def __init__(self, settings: Settings, outage: Outage) -> None:
        self._settings = settings
        self._outage = outage
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._queue: asyncio.Queue[tuple[Delivery | BaseException, threading.Event]]
        self._thread = threading.Thread(target=self._work, name=type(self).__name__.lower(), daemon=True)
        self._kinds: Mapping[str, RecordKind] = {
            settings.topic("events"): "event",
            settings.topic("models"): "card",
            **dict.fromkeys(settings.lane_names, "task"),
        }

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue(_QUEUED_RUNS)
        self._thread.start()
        try:
            while True:
                delivery, taken = await self._queue.get()
                if isinstance(delivery, BaseException):
                    raise delivery
                yield delivery
                taken.set()
        finally:
            self._stop.set()
            await self._drain()

    async def _drain(self) -> None:
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()[1].set()
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_HANDOVER_SECONDS)

    def _work(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - the thread's last word: it is raised where the deliveries are read
            self._put(error)

    def _read(self) -> None:
        raise NotImplementedError

    def _put(self, delivery: Delivery | BaseException) -> threading.Event:
        taken = threading.Event()
        future = asyncio.run_coroutine_threadsafe(self._queue.put((delivery, taken)), self._loop)
        while not self._stop.is_set():
            try:
                future.result(_POLL_SECONDS)
                break
            except TimeoutError:
                continue
        return taken

    def _consumer(self, **more: Any) -> Consumer:
        return Consumer(
            client_config(
                self._settings,
                self._outage,
                **{
                    "group.id": self._settings.kafka_group,
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 500,
                    "queued.max.messages.kbytes": 4096,
                    "topic.metadata.refresh.interval.ms": 30_000,
                    **more,
                },
            )
        )

    def _persistently(self, call: Callable[[], Any], client: Consumer | AdminClient | None = None) -> Any:
        """Ask until the broker answers; `client` is who asks."""
        while not self._stop.is_set():
            try:
                return call()
            except (KafkaException, TimeoutError) as error:  # TimeoutError: a future of the admin client's
                log.debug("kafka did not answer: %s", error)
                if client is not None:
                    # A broker that was away leads with a new epoch, of which the client hears only when it asks.
                    with contextlib.suppress(KafkaException):
                        client.list_topics(timeout=_CALL_SECONDS)
                self._stop.wait(0.5)
        raise SystemExit

    def _cards_reader(self) -> Consumer:
        """A reader of all cards, after handing over those there are."""
        topic = self._settings.topic("models")
        consumer = self._consumer()
        # Asked before anything is fetched, since it would wait behind a fetch.
        _, end = self._persistently(
            lambda: consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=_CALL_SECONDS)
        )
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        position = 0
        while position < end and not self._stop.is_set():
            messages = self._poll(consumer)
            self._hand_over(messages)
            position = max([position, *(1 + (message.offset() or 0) for message in messages)])
        return consumer

    def _poll(self, consumer: Consumer, timeout: float = _POLL_SECONDS) -> list[Message]:
        first = consumer.poll(timeout)
        if first is None:
            return []
        messages = [first, *consumer.consume(_RUN - 1, timeout=0)]
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.fatal():
                raise KafkaException(error)
            else:
                log.debug("kafka: %s", error.str())
        if good:
            self._outage.works()
        return good

    def _hand_over(self, messages: Sequence[Message]) -> None:
        if messages:
            self._put(Records([self._record(message) for message in messages]))

    def _record(self, message: Message) -> Record:
        topic = message.topic() or ""
        key = message.key()
        return Record(
            kind=self._kinds[topic],
            lane=topic,
            place=Place(topic, message.partition() or 0, message.offset() or 0),
            timestamp=message.timestamp()[1] / 1000,
            key=key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key or ""),
            value=_bytes(message.value()),
            headers=_headers(message),
        )


class Follower(_Reader):
    """Reads every partition of everything, in no group."""

    def __init__(self, settings: Settings, outage: Outage, offsets: Mapping[tuple[str, Partition], int]) -> None:
        """From `offsets`, else where the group stands, else VIEW_HOURS back."""
        super().__init__(settings, outage)
        self._offsets = offsets

    async def records(self) -> AsyncGenerator[Records, None]:
        """The records."""
        async for delivery in self.deliveries():
            if isinstance(delivery, Records):
                yield delivery

    def _read(self) -> None:
        cards = self._cards_reader()
        consumer = self._consumer()
        try:
            starts = self._persistently(lambda: self._starts(consumer))
            self._put(Records((), {(tp.topic, tp.partition): tp.offset for tp in starts}))
            consumer.assign(starts)
            while not self._stop.is_set():
                self._hand_over(self._poll(consumer))
                self._hand_over(self._poll(cards, 0))
        finally:
            consumer.close()
            cards.close()

    def _starts(self, consumer: Consumer) -> list[TopicPartition]:
        events = self._settings.topic("events")
        topics = consumer.list_topics(timeout=_CALL_SECONDS).topics
        wanted = [
            TopicPartition(topic, partition)
            for topic in (events, *self._settings.lane_names)
            if topic in topics and topics[topic].error is None
            for partition in topics[topic].partitions
        ]
        if len({tp.topic for tp in wanted}) < 1 + len(self._settings.lane_names):
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        lanes = [tp for tp in wanted if tp.topic != events]
        committed = {(tp.topic, tp.partition): tp.offset for tp in consumer.committed(lanes, timeout=_CALL_SECONDS)}
        since = _now_ms() - int(self._settings.view_hours * 3_600_000)
        asked = [TopicPartition(tp.topic, tp.partition, since) for tp in wanted if tp.topic == events]
        timed = {(tp.topic, tp.partition): tp.offset for tp in consumer.offsets_for_times(asked, timeout=_CALL_SECONDS)}
        for tp in wanted:
            key = (tp.topic, tp.partition)
            found = self._offsets.get(key, committed.get(key, timed.get(key, OFFSET_BEGINNING)))
            low, high = consumer.get_watermark_offsets(tp, timeout=_CALL_SECONDS)
            # Retention may have overtaken an offset, or the topic been made anew: nothing would be read to move it.
            tp.offset = high if found == OFFSET_END else found if low <= found <= high else low
        return wanted


class Owner(_Reader):
    """A member of the consumers' group: reads partition p of every lane and of events."""

    def __init__(self, settings: Settings, outage: Outage, admin: AdminClient, flush: Callable[[], object]) -> None:
        """`flush` puts all that was emitted into the log; a new owner must find it there."""
        super().__init__(settings, outage)
        self._admin = admin
        self._flush = flush
        self._events = settings.topic("events")
        self._lock = threading.Lock()
        self._commits: dict[tuple[str, Partition], int] = {}
        self._committed: dict[tuple[str, Partition], int] = {}
        self._owned: set[Partition] = set()
        self._times: dict[tuple[str, Partition], list[tuple[int, int]]] = {}

    def commit(self, lane: str, partition: Partition, offset: int) -> None:
        """Leave it for the thread to commit; it looks five times a second."""
        with self._lock:
            if partition in self._owned:
                self._commits[lane, partition] = offset

    def _read(self) -> None:
        self._set_session()
        cards = self._cards_reader()
        new_protocol = self._settings.kafka_group_protocol == "consumer"
        protocol: dict[str, Any] = (
            {"group.protocol": "consumer", "group.remote.assignor": "range"}
            if new_protocol
            else {"partition.assignment.strategy": "range", "session.timeout.ms": 10_000}
        )
        consumer = self._consumer(**protocol, on_commit=self._on_commit)
        consumer.subscribe(
            [*self._settings.lane_names, self._events],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        committed_at = 0.0
        try:
            while not self._stop.is_set():
                messages = self._poll(consumer)
                self._note_times(messages)
                self._hand_over(messages)
                self._hand_over(self._poll(cards, 0))
                if self._loop.time() - committed_at >= _COMMIT_SECONDS:
                    committed_at = self._loop.time()
                    self._commit(consumer, asynchronous=True)
            self._commit(consumer, asynchronous=False)
        finally:
            self._flush()
            consumer.close()
            cards.close()

    def _set_session(self) -> None:
        """Ask for a quick takeover, once the broker is there; one whose own minimum is higher keeps it."""
        resource = ConfigResource(
            ResourceType.GROUP,
            self._settings.kafka_group,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in _SESSION.items()
            ],
        )

        def ask() -> None:
            try:
                for future in self._admin.incremental_alter_configs([resource], request_timeout=_CALL_SECONDS).values():
                    future.result()
            except KafkaException as error:
                refusal = error.args[0]
                if refusal.code() in _NOT_THERE or refusal.retriable():
                    raise
                log.info("the broker keeps its own group timeouts: %s", refusal.str())

        self._persistently(ask)

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        if not assigned:  # a rebalance that only took something away ends with this
            return
        lanes = [tp for tp in assigned if tp.topic != self._events]
        events = [tp.partition for tp in assigned if tp.topic == self._events]
        committed = self._persistently(lambda: consumer.committed(lanes, timeout=_CALL_SECONDS), consumer)
        since: dict[Partition, int] = dict.fromkeys(events, _now_ms())
        for tp in committed:
            if tp.offset < 0 and self._is_empty(consumer, tp):
                continue
            noted = _noted_ms(tp.metadata) if tp.offset >= 0 else 0
            since[tp.partition] = min(since.get(tp.partition, noted), noted)
            self._committed[tp.topic, tp.partition] = max(0, tp.offset)
        ends = self._persistently(lambda: self._ends(events), self._admin)
        starts = self._persistently(
            lambda: consumer.offsets_for_times(
                [TopicPartition(self._events, p, max(0, since[p] - _MARGIN_MS)) for p in events], timeout=_CALL_SECONDS
            ),
            consumer,
        )
        # Where nothing so late is left there is nothing to wait for; reading goes on from the end, named so that
        # no event appended meanwhile is passed over.
        until = {tp.partition: ends[tp.partition] if tp.offset >= 0 else 0 for tp in starts}
        for tp in starts:
            tp.offset = tp.offset if tp.offset >= 0 else ends[tp.partition]
        placed = [
            TopicPartition(tp.topic, tp.partition, tp.offset if tp.offset >= 0 else OFFSET_BEGINNING)
            for tp in committed
        ] + starts
        if self._settings.kafka_group_protocol == "consumer":
            consumer.incremental_assign(placed)
        else:
            consumer.assign(placed)
        self._owned |= set(events)
        self._put(Assigned(until))
        if events:
            log.info("partitions assigned: %s", sorted(events))

    def _is_empty(self, consumer: Consumer, tp: TopicPartition) -> bool:
        low, high = self._persistently(lambda: consumer.get_watermark_offsets(tp, timeout=_CALL_SECONDS), consumer)
        return bool(low == high)

    def _ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        asked = {TopicPartition(self._events, p): OffsetSpec.latest() for p in partitions}
        if not asked:
            return {}
        futures = self._admin.list_offsets(asked, request_timeout=_CALL_SECONDS)
        return {tp.partition: future.result(_CALL_SECONDS).offset for tp, future in futures.items()}

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._commit(consumer, asynchronous=False)
        self._let_go(consumer, revoked)

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._let_go(consumer, lost)

    def _let_go(self, consumer: Consumer, gone: list[TopicPartition]) -> None:
        partitions = frozenset(tp.partition for tp in gone if tp.topic == self._events)
        self._owned -= partitions
        with self._lock:
            for noted in (self._commits, self._committed, self._times):
                for key in [key for key in noted if key[1] in partitions]:
                    del noted[key]
        if partitions and not self._stop.is_set():
            log.info("partitions revoked: %s", sorted(partitions))
            self._put(Revoked(partitions)).wait(_HANDOVER_SECONDS)
        # Whoever owns them next reads the events up to their end before starting anything: all of ours must be there.
        self._flush()
        if self._settings.kafka_group_protocol == "consumer":
            consumer.incremental_unassign(gone)
        else:
            consumer.unassign()

    def _commit(self, consumer: Consumer, *, asynchronous: bool) -> None:
        with self._lock:
            offsets = [
                TopicPartition(lane, partition, offset, str(self._time_below(lane, partition, offset)))
                for (lane, partition), offset in self._commits.items()
                if partition in self._owned and offset > self._committed.get((lane, partition), 0)
            ]
        if not offsets:
            return
        try:
            consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except KafkaException as error:
            log.debug("a commit failed and is made again: %s", error)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if error is not None:
            log.debug("a commit failed and is made again: %s", error.str())
            return
        with self._lock:
            for tp in offsets:
                if tp.error is None:
                    key = (tp.topic, tp.partition)
                    self._committed[key] = max(tp.offset, self._committed.get(key, 0))

    def _note_times(self, messages: Sequence[Message]) -> None:
        """Remember, once a second of append time, which offset was appended when."""
        for message in messages:
            if message.topic() == self._events:
                continue
            times = self._times.setdefault((message.topic() or "", message.partition() or 0), [])
            appended = message.timestamp()[1]
            if not times or appended - times[-1][1] >= 1000:
                times.append((message.offset() or 0, appended))

    def _time_below(self, lane: str, partition: Partition, offset: int) -> int:
        """When the record below the offset was appended, or up to a second earlier (Unix milliseconds)."""
        times = self._times.get((lane, partition), [])
        index = bisect.bisect_left(times, (offset, 0))
        if index > 1:
            del times[: index - 1]
            index = 1
        return times[0][1] if index else 0


def _noted_ms(metadata: str | None) -> int:
    """What `_time_below` said at a commit. Other tools commit without it, and a newer version may say more: 0 then, so
    that all events are read."""
    return int(metadata) if metadata and metadata.isdecimal() and metadata.isascii() else 0


# The client's answer for a header name that is no text is a list with a hole, and an error beside it. Called like this
# the error is always seen; a plain call, once the interpreter has made it quick, steps into the hole: a segmentation
# fault.
_told_headers = operator.methodcaller("headers")


def _headers(message: Message) -> dict[str, bytes]:
    try:
        return {name: _bytes(value) for name, value in _told_headers(message) or []}
    except (UnicodeDecodeError, SystemError):
        # The client tells none of them then, and nothing we do depends on one.
        return {}


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode() if value is not None else b""


def _now_ms() -> int:
    return int(time.time() * 1000)
