"""Reading Kafka as a member of a consumer group."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec, ResourceType

from adapters.kafka_client import Connectivity
from adapters.kafka_commit_times import CommitTimes, metadata_ms
from adapters.kafka_reader import CALL_SECONDS, HANDOVER_SECONDS, Reader
from config.settings import Settings
from tasks.log import CLOCK_SKEW_SECONDS, Assigned, Partition, Revoked

logger = logging.getLogger(__name__)

_COMMIT_SECONDS = 0.2
_NO_ANSWER = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._TRANSPORT,
}
_SESSION = {"consumer.session.timeout.ms": "6000", "consumer.heartbeat.interval.ms": "1000"}
"""The group's settings under KIP-848: a killed member's partitions go to other members after 6 s instead of 45 s."""


class GroupReader(Reader):
    """See GroupMember and LogReader.join."""

    def __init__(
        self,
        settings: Settings,
        connectivity: Connectivity,
        admin: AdminClient,
        flush: Callable[[], object],
        group: str,
        topics: Sequence[str],
        replayed: str | None = None,
    ) -> None:
        """`flush` blocks until everything this process emitted is in the log."""
        super().__init__(settings, connectivity)
        self._admin = admin
        self._flush = flush
        self._group = group
        self._topics = topics
        self._replayed = replayed
        self._incremental = settings.kafka_group_protocol == "consumer"
        self._lock = threading.Lock()  # guards the next three fields, which `commit` shares with the thread
        self._assigned: set[Partition] = set()
        self._pending: dict[tuple[str, Partition], int] = {}
        self._committed: dict[tuple[str, Partition], int] = {}
        self._times = CommitTimes()

    def commit(self, topic: str, partition: Partition, offset: int) -> None:
        """See GroupMember. The thread sends what is pending five times a second."""
        with self._lock:
            if partition in self._assigned:
                self._pending[topic, partition] = offset

    def _read(self) -> None:
        self._request_session_timeout()
        models = self._models_reader() if self._replayed else None
        # Only the range assignor gives partition p of all topics to one member; the default of KIP-848 does not.
        protocol: dict[str, Any] = (
            {"group.protocol": "consumer", "group.remote.assignor": "range"}
            if self._incremental
            else {"partition.assignment.strategy": "range", "session.timeout.ms": 10_000}
        )
        consumer = self._consumer(**{"group.id": self._group}, **protocol, on_commit=self._on_commit)
        consumer.subscribe(
            list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        committed_at = 0.0
        try:
            while not self._stop.is_set():
                messages = self._poll(consumer)
                self._times.note([message for message in messages if message.topic() != self._replayed])
                self._hand_over(messages)
                if models is not None:
                    self._hand_over(self._poll(models, 0))
                if self._loop.time() - committed_at >= _COMMIT_SECONDS:
                    committed_at = self._loop.time()
                    self._commit(consumer, asynchronous=True)
            self._commit(consumer, asynchronous=False)
        finally:
            self._flush()
            consumer.close()
            if models is not None:
                models.close()

    def _request_session_timeout(self) -> None:
        """Ask the broker for `_SESSION`. A broker that refuses, for example because its own minimum is higher, keeps
        its values. A broker that does not answer is asked again until it does."""
        resource = ConfigResource(
            ResourceType.GROUP,
            self._group,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in _SESSION.items()
            ],
        )

        def request() -> None:
            try:
                for future in self._admin.incremental_alter_configs([resource], request_timeout=CALL_SECONDS).values():
                    future.result()
            except KafkaException as error:
                refusal = error.args[0]
                if refusal.code() in _NO_ANSWER or refusal.retriable():
                    raise
                logger.info("the broker keeps its own session timeout for group %s: %s", self._group, refusal.str())

        self._until_answered(request)

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Place every assigned partition explicitly, then announce the assignment. Runs inside `poll`."""
        if not assigned:  # a rebalance that only revoked partitions ends with an empty assignment
            return
        lanes = [tp for tp in assigned if tp.topic != self._replayed]
        committed = self._until_answered(lambda: consumer.committed(lanes, timeout=CALL_SECONDS), consumer)
        positions = [
            TopicPartition(tp.topic, tp.partition, tp.offset if tp.offset >= 0 else OFFSET_BEGINNING)
            for tp in committed
        ]
        if self._replayed:
            partitions = [tp.partition for tp in assigned if tp.topic == self._replayed]
            starts, until = self._replay_starts(consumer, self._replayed, partitions, committed)
            positions += starts
        else:
            until = {tp.partition: 0 for tp in assigned}
        if self._incremental:
            consumer.incremental_assign(positions)
        else:
            consumer.assign(positions)
        with self._lock:
            self._committed |= {(tp.topic, tp.partition): max(0, tp.offset) for tp in committed}
            self._assigned |= until.keys()
        self._put(Assigned(until))
        if until:
            logger.info("group %s assigned partitions %s", self._group, sorted(until))

    def _replay_starts(
        self, consumer: Consumer, topic: str, partitions: Sequence[Partition], committed: Sequence[TopicPartition]
    ) -> tuple[list[TopicPartition], dict[Partition, int]]:
        """Where to start reading the replayed topic, and up to where it must be read (`Assigned.events_until`).

        Each commit carries the append time of the last record that is done, see CommitTimes. Events of unfinished tasks
        are younger than the oldest such time among the lanes of the partition, so reading starts there, minus the skew
        between brokers. A lane without a commit has done nothing yet: all events are read, unless the lane is empty.
        """
        since_ms: dict[Partition, int] = dict.fromkeys(partitions, int(time.time() * 1000))
        for tp in committed:
            if tp.offset < 0 and self._is_empty(consumer, tp):
                continue
            commit_ms = metadata_ms(tp.metadata) if tp.offset >= 0 else 0
            since_ms[tp.partition] = min(since_ms.get(tp.partition, commit_ms), commit_ms)
        ends = self._until_answered(lambda: self._ends(topic, partitions), self._admin)
        times = [TopicPartition(topic, p, max(0, since_ms[p] - int(CLOCK_SKEW_SECONDS * 1000))) for p in partitions]
        starts = self._until_answered(lambda: consumer.offsets_for_times(times, timeout=CALL_SECONDS), consumer)
        # An offset below 0 means that no record is that young. Then there is nothing to read first. The partition is
        # read from the end that was just asked for, not from "latest": an event appended meanwhile would be skipped.
        until = {tp.partition: ends[tp.partition] if tp.offset >= 0 else 0 for tp in starts}
        for tp in starts:
            tp.offset = tp.offset if tp.offset >= 0 else ends[tp.partition]
        return starts, until

    def _is_empty(self, consumer: Consumer, tp: TopicPartition) -> bool:
        low, high = self._until_answered(lambda: consumer.get_watermark_offsets(tp, timeout=CALL_SECONDS), consumer)
        return bool(low == high)

    def _ends(self, topic: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        latest = {TopicPartition(topic, p): OffsetSpec.latest() for p in partitions}
        if not latest:
            return {}
        futures = self._admin.list_offsets(latest, request_timeout=CALL_SECONDS)
        return {tp.partition: future.result(CALL_SECONDS).offset for tp, future in futures.items()}

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """The group takes partitions away and waits for this call to return. Runs inside `poll`."""
        self._commit(consumer, asynchronous=False)
        self._give_up(consumer, revoked)

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        """The group has already given the partitions to others, so nothing may be committed. Runs inside `poll`."""
        self._give_up(consumer, lost)

    def _give_up(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """Forget the partitions, let the event loop drop its tasks, then flush.

        The next owner asks for the end of the events and reads up to there before it starts a task. It is only assigned
        the partitions when this call returns, so everything that this process emitted about them must be in the log
        by then: otherwise the next owner would start a task that runs here.
        """
        partitions = frozenset(tp.partition for tp in revoked if self._replayed is None or tp.topic == self._replayed)
        with self._lock:
            self._assigned -= partitions
            for offsets in (self._pending, self._committed):
                for key in [key for key in offsets if key[1] in partitions]:
                    del offsets[key]
        self._times.forget(partitions)
        if partitions and not self._stop.is_set():
            logger.info("group %s revoked partitions %s", self._group, sorted(partitions))
            self._put(Revoked(partitions)).wait(HANDOVER_SECONDS)
        self._flush()
        if self._incremental:
            consumer.incremental_unassign(revoked)
        else:
            consumer.unassign()

    def _commit(self, consumer: Consumer, *, asynchronous: bool) -> None:
        """Send pending commits of assigned partitions, and never a lower offset: Kafka itself checks neither, so a late
        commit would move the next owner's offset back."""
        with self._lock:
            offsets = [
                TopicPartition(topic, partition, offset, str(self._times.below(topic, partition, offset)))
                for (topic, partition), offset in self._pending.items()
                if partition in self._assigned and offset > self._committed.get((topic, partition), 0)
            ]
        if not offsets:
            return
        try:
            consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except KafkaException as error:
            logger.debug("a commit failed, it will be sent again: %s", error)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if error is not None:
            logger.debug("a commit failed, it will be sent again: %s", error.str())
            return
        with self._lock:
            for tp in offsets:
                if tp.error is None:
                    key = (tp.topic, tp.partition)
                    self._committed[key] = max(tp.offset, self._committed.get(key, 0))
