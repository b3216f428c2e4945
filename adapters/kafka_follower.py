"""Reading Kafka outside the group: everything, as a gateway does, or the events of partitions that are another's."""

import time
from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from adapters.kafka_client import Connectivity
from adapters.kafka_reader import CALL_SECONDS, Reader
from config.settings import Settings
from tasks.log import Partition, Records


class Follower(Reader):
    """Reads every partition of everything, in no group."""

    def __init__(self, settings: Settings, outage: Connectivity, offsets: Mapping[tuple[str, Partition], int]) -> None:
        """From `offsets`, else where the group stands, else VIEW_HOURS back."""
        super().__init__(settings, outage)
        self._offsets = offsets

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
        topics = consumer.list_topics(timeout=CALL_SECONDS).topics
        wanted = [
            TopicPartition(topic, partition)
            for topic in (events, *self._settings.lane_names)
            if topic in topics and topics[topic].error is None
            for partition in topics[topic].partitions
        ]
        if len({tp.topic for tp in wanted}) < 1 + len(self._settings.lane_names):
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        lanes = [tp for tp in wanted if tp.topic != events]
        committed = {(tp.topic, tp.partition): tp.offset for tp in consumer.committed(lanes, timeout=CALL_SECONDS)}
        since = int(time.time() * 1000) - int(self._settings.view_hours * 3_600_000)
        asked = [TopicPartition(tp.topic, tp.partition, since) for tp in wanted if tp.topic == events]
        timed = {(tp.topic, tp.partition): tp.offset for tp in consumer.offsets_for_times(asked, timeout=CALL_SECONDS)}
        for tp in wanted:
            key = (tp.topic, tp.partition)
            found = self._offsets.get(key, committed.get(key, timed.get(key, OFFSET_BEGINNING)))
            low, high = consumer.get_watermark_offsets(tp, timeout=CALL_SECONDS)
            # Retention may have overtaken an offset, or the topic been made anew: nothing would be read to move it.
            tp.offset = high if found == OFFSET_END else found if low <= found <= high else low
        return wanted


class Listener(Reader):
    """Reads the events of some partitions."""

    def __init__(self, settings: Settings, outage: Connectivity, offsets: Mapping[Partition, int]) -> None:
        """From these offsets."""
        super().__init__(settings, outage)
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
