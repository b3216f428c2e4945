"""Reading Kafka without a group: the whole log, or the events of some partitions."""

import time
from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from adapters.kafka_client import Connectivity
from adapters.kafka_reader import CALL_SECONDS, Reader
from config.settings import Settings
from tasks.log import Partition, Records


class LogFollower(Reader):
    """Reads every partition of every topic of the log. See LogReader.follow."""

    def __init__(
        self, settings: Settings, connectivity: Connectivity, offsets: Mapping[tuple[str, Partition], int]
    ) -> None:
        """`offsets`: where to start, by (topic, partition), for the partitions that the caller has read before."""
        super().__init__(settings, connectivity)
        self._offsets = offsets

    def _read(self) -> None:
        models = self._models_reader()
        consumer = self._consumer()
        try:
            starts = self._until_answered(lambda: self._starts(consumer))
            previews = self._until_answered(lambda: self._preview_ends(consumer))
            self._put(Records((), {(tp.topic, tp.partition): tp.offset for tp in starts}))
            consumer.assign(starts)
            # Not by the consumer of the lanes: every record of a lane would pay for fetching these partitions too.
            models.incremental_assign(previews)
            while not self._stop.is_set():
                self._hand_over(self._poll(consumer))
                self._hand_over(self._poll(models, 0))
        finally:
            consumer.close()
            models.close()

    def _starts(self, consumer: Consumer) -> list[TopicPartition]:
        """Where each partition is read from: the caller's offset, else for a lane the consumers' commit, else for
        events the first record of the last VIEW_HOURS. Raises KafkaException while a topic is missing."""
        events = self._settings.topic("events")
        topics = consumer.list_topics(timeout=CALL_SECONDS).topics
        partitions = [
            TopicPartition(topic, partition)
            for topic in (events, *self._settings.lane_names)
            if topic in topics and topics[topic].error is None
            for partition in topics[topic].partitions
        ]
        if len({tp.topic for tp in partitions}) < 1 + len(self._settings.lane_names):
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        lanes = [tp for tp in partitions if tp.topic != events]
        committed = {(tp.topic, tp.partition): tp.offset for tp in consumer.committed(lanes, timeout=CALL_SECONDS)}
        since_ms = int(time.time() * 1000) - int(self._settings.view_hours * 3_600_000)
        times = [TopicPartition(tp.topic, tp.partition, since_ms) for tp in partitions if tp.topic == events]
        recent = {(tp.topic, tp.partition): tp.offset for tp in consumer.offsets_for_times(times, timeout=CALL_SECONDS)}
        for tp in partitions:
            key = (tp.topic, tp.partition)
            start = self._offsets.get(key, committed.get(key, recent.get(key, OFFSET_BEGINNING)))
            low, high = consumer.get_watermark_offsets(tp, timeout=CALL_SECONDS)
            # Retention may have deleted the record at this offset, or the topic was deleted and created again. From an
            # offset outside the log nothing would be read, so the position would never reach the end.
            tp.offset = high if start == OFFSET_END else start if low <= start <= high else low
        return partitions

    def _preview_ends(self, consumer: Consumer) -> list[TopicPartition]:
        """The ends of the previews topic; empty if the topic is missing, as before an upgrade is provisioned."""
        name = self._settings.topic("previews")
        topic = consumer.list_topics(timeout=CALL_SECONDS).topics.get(name)
        partitions = () if topic is None or topic.error is not None else topic.partitions
        return [TopicPartition(name, partition, OFFSET_END) for partition in partitions]


class EventsReader(Reader):
    """Reads the events of some partitions, also of those that another process owns. See LogReader.read_events."""

    def __init__(self, settings: Settings, connectivity: Connectivity, offsets: Mapping[Partition, int]) -> None:
        """`offsets`: where to start, by partition."""
        super().__init__(settings, connectivity)
        self._offsets = offsets

    def _read(self) -> None:
        events = self._settings.topic("events")
        consumer = self._consumer()
        consumer.assign([TopicPartition(events, partition, offset) for partition, offset in self._offsets.items()])
        try:
            while not self._stop.is_set():
                self._hand_over(self._poll(consumer))
        finally:
            consumer.close()
