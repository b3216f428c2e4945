"""Reading Kafka as a member of the consumers' group: a share of the partitions, and what of it is done."""

import bisect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec, ResourceType

from adapters.kafka_client import Connectivity
from adapters.kafka_reader import CALL_SECONDS, HANDOVER_SECONDS, Reader
from config.settings import Settings
from tasks.log import Assigned, Partition, Revoked

log = logging.getLogger(__name__)

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


class GroupReader(Reader):
    """A member of the consumers' group: reads partition p of every lane and of events."""

    def __init__(
        self, settings: Settings, outage: Connectivity, admin: AdminClient, flush: Callable[[], object]
    ) -> None:
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
                for future in self._admin.incremental_alter_configs([resource], request_timeout=CALL_SECONDS).values():
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
        committed = self._persistently(lambda: consumer.committed(lanes, timeout=CALL_SECONDS), consumer)
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
                [TopicPartition(self._events, p, max(0, since[p] - _MARGIN_MS)) for p in events], timeout=CALL_SECONDS
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
        low, high = self._persistently(lambda: consumer.get_watermark_offsets(tp, timeout=CALL_SECONDS), consumer)
        return bool(low == high)

    def _ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        asked = {TopicPartition(self._events, p): OffsetSpec.latest() for p in partitions}
        if not asked:
            return {}
        futures = self._admin.list_offsets(asked, request_timeout=CALL_SECONDS)
        return {tp.partition: future.result(CALL_SECONDS).offset for tp, future in futures.items()}

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
            self._put(Revoked(partitions)).wait(HANDOVER_SECONDS)
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


def _now_ms() -> int:
    return int(time.time() * 1000)
