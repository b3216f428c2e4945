"""The log on Apache Kafka: one producer for all writes, and one thread for each reader."""

import asyncio
import concurrent.futures
import logging
import threading
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from adapters.kafka_client import Connectivity, client_config
from adapters.kafka_follower import EventsReader, LogFollower
from adapters.kafka_group import GroupReader
from adapters.kafka_record import record_kinds
from adapters.kafka_topics import LARGEST_RECORD, partition_counts
from config.settings import Settings
from tasks.capabilities import ServedModel
from tasks.errors import BodyTooLarge, QueueUnavailable
from tasks.events import Event, event_key
from tasks.log import Partition, Place, Record, Records
from tasks.preview import Preview
from tasks.task import Task

logger = logging.getLogger(__name__)

_ANY_PARTITION = -1
_RETRY_AFTER = 2.0
_FLUSH_SECONDS = 5.0
_CUT_BYTES = 64 * 1024
"""How much of a key and of a value is kept in a dead letter that is too large for Kafka."""
_PROBE_SECONDS = 1.0


class KafkaLog:
    """See TaskWriter and LogReader. One object for a process."""

    def __init__(self, settings: Settings) -> None:
        """Connects in the background. Kafka may be unavailable at first."""
        self._settings = settings
        self._connectivity = Connectivity()
        self._producer = Producer(
            client_config(
                settings,
                self._connectivity,
                **{
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 0,
                    "message.max.bytes": LARGEST_RECORD,
                    "partitioner": "murmur2_random",
                    "message.timeout.ms": int(settings.kafka_timeout * 1000),
                    "topic.metadata.propagation.max.ms": 1000,
                },
            )
        )
        self._admin = AdminClient(client_config(settings, self._connectivity))
        self._members: list[GroupReader] = []
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._poller.start()

    @property
    def events_topic(self) -> str:
        """See LogReader."""
        return self._settings.topic("events")

    async def append_task(self, task: Task) -> Place:
        """See TaskWriter."""
        headers = {"content-type": b"application/json"}
        if task.traceparent:
            headers["traceparent"] = task.traceparent.encode()
        value = task.model_dump_json().encode()
        if len(value) > self._settings.record_limit:
            raise BodyTooLarge(f"The task takes {len(value)} bytes; at most {self._settings.record_limit} are allowed.")
        return await self._append(task.topic, _ANY_PARTITION, self._lane_key(task), value, headers)

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """See TaskWriter."""
        return await self._append(self.events_topic, partition, event_key(event), event.model_dump_json().encode())

    def emit(self, event: Event, partition: Partition) -> None:
        """See TaskWriter."""
        self._emit(self.events_topic, partition, event_key(event), event.model_dump_json().encode())

    def emit_preview(self, preview: Preview) -> None:
        """See TaskWriter. Nothing is sent if the topic does not exist, as before an upgrade is provisioned."""
        topic = self._settings.topic("previews")
        self._emit(topic, _ANY_PARTITION, preview.task_id, preview.model_dump_json().encode())

    async def append_card(self, model: ServedModel) -> None:
        """See TaskWriter."""
        await self._append(
            self._settings.topic("models"), _ANY_PARTITION, model.model, model.model_dump_json().encode()
        )

    async def dead_letter(self, record: Record, reason: str) -> None:
        """See TaskWriter. The headers have the names that Spring Kafka and Kafka Connect give to dead letters. Of a
        record that is too large for Kafka, the beginning is kept and its size is noted in a header."""
        about = {
            "kafka_dlt-exception-fqcn": "tasks.task.TaskRecord",
            "kafka_dlt-exception-message": reason,
            "kafka_dlt-original-topic": record.place.topic,
            "kafka_dlt-original-partition": str(record.place.partition),
            "kafka_dlt-original-offset": str(record.place.offset),
            "kafka_dlt-original-timestamp": str(int(record.timestamp * 1000)),
            "kafka_dlt-original-consumer-group": self._settings.kafka_group,
        }
        topic, headers = self._settings.topic("dead_letter"), {name: value.encode() for name, value in about.items()}
        try:
            await self._append(topic, _ANY_PARTITION, record.key, record.value, {**record.headers, **headers})
        except BodyTooLarge:
            # Kafka's limits count compressed bytes, so a record that was read may be too large to be written.
            headers["kafka_dlt-original-size"] = str(len(record.value)).encode()
            await self._append(topic, _ANY_PARTITION, record.key[:_CUT_BYTES], record.value[:_CUT_BYTES], headers)

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """See LogReader."""
        return LogFollower(self._settings, self._connectivity, offsets).records()

    def read_events(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """See LogReader."""
        return EventsReader(self._settings, self._connectivity, offsets).records()

    def join(self, group: str, topics: Sequence[str], *, replayed: str | None = None) -> GroupReader:
        """See LogReader."""
        if unknown := set(topics) - record_kinds(self._settings).keys():
            raise ValueError(f"not topics of the log: {', '.join(sorted(unknown))}")
        if replayed is not None and replayed not in topics:
            raise ValueError(f"{replayed} is not among the topics to read")
        member = GroupReader(
            self._settings, self._connectivity, self._admin, self._flush, group, topics, replayed=replayed
        )
        self._members.append(member)
        return member

    async def events_since(self, times: Mapping[Partition, float]) -> Mapping[Partition, int]:
        """See LogReader."""
        topic = self.events_topic
        # The ends are asked for first. An event that is appended between the two answers is then read, not skipped.
        ends = await self._offsets({TopicPartition(topic, partition): OffsetSpec.latest() for partition in times})
        first = await self._offsets(
            {
                TopicPartition(topic, partition): OffsetSpec.for_timestamp(int(time * 1000))
                for partition, time in times.items()
            }
        )
        return {key[1]: offset if offset >= 0 else ends[key] for key, offset in first.items()}

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """See LogReader."""
        self._refuse_if_unavailable()
        try:
            counts = await asyncio.get_running_loop().run_in_executor(
                None, partition_counts, self._admin, self._settings.kafka_timeout
            )
        except KafkaException as error:
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
        topics = (*self._settings.lane_names, self.events_topic)
        return await self._offsets(
            {
                TopicPartition(topic, partition): OffsetSpec.latest()
                for topic in topics
                for partition in range(counts.get(topic, 0))
            }
        )

    async def close(self) -> None:
        """See TaskLog."""
        loop = asyncio.get_running_loop()
        for member in self._members:
            await member.close()
        await loop.run_in_executor(None, self._flush)
        self._closed.set()
        await loop.run_in_executor(None, self._poller.join)

    def _poll(self) -> None:
        # Before an idempotent producer sends its first message, it asks for its id and for metadata, which takes half a
        # second. The probe asks for metadata when the process starts, so that the first request need not wait for it.
        warm = False
        while not self._closed.is_set():
            if not warm or self._connectivity.suspected:
                # During an outage every append is refused, so no success can end the outage: a broker must be asked.
                warm = self._probe()
            # Delivery reports are only served by this call: without it no append would ever return.
            self._producer.poll(0.1)

    def _probe(self) -> bool:
        """Ask a broker for metadata and report whether it answered."""
        successes = self._connectivity.successes
        try:
            self._producer.list_topics(timeout=_PROBE_SECONDS)
        except KafkaException:
            self._connectivity.report_no_answer(successes)
            return False
        self._connectivity.report_success()
        return True

    def _flush(self) -> None:
        self._producer.flush(_FLUSH_SECONDS)

    def _refuse_if_unavailable(self) -> None:
        if self._connectivity.unavailable:
            raise QueueUnavailable(retry_after=_RETRY_AFTER)

    async def _offsets(self, wanted: dict[TopicPartition, OffsetSpec]) -> dict[tuple[str, Partition], int]:
        """The offsets that the brokers give for these partitions. Below 0: there is no such record."""
        self._refuse_if_unavailable()
        if not wanted:
            return {}
        timeout = self._settings.kafka_timeout
        try:
            futures = await asyncio.get_running_loop().run_in_executor(
                None, lambda: self._admin.list_offsets(wanted, request_timeout=timeout)
            )
            results = await asyncio.wait_for(
                asyncio.gather(*(asyncio.wrap_future(future) for future in futures.values())), timeout
            )
        except (KafkaException, TimeoutError) as error:
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
        return {(tp.topic, tp.partition): result.offset for tp, result in zip(futures, results, strict=True)}

    def _lane_key(self, task: Task) -> str:
        shards = self._settings.lane_shards.get(task.model_name, 1)
        if shards <= 1:
            return task.model_name
        return f"{task.model_name}/{zlib.crc32(task.task_id.encode()) % shards}"

    def _emit(self, topic: str, partition: Partition, key: str, value: bytes) -> None:
        try:
            self._producer.produce(topic, value, key, partition=partition)
        except (BufferError, KafkaException) as error:
            logger.debug("a record for %s was dropped: %s", topic, error)

    async def _append(
        self, topic: str, partition: Partition, key: str, value: bytes, headers: Mapping[str, bytes] | None = None
    ) -> Place:
        self._refuse_if_unavailable()
        loop = asyncio.get_running_loop()
        delivered: concurrent.futures.Future[Place] = concurrent.futures.Future()
        # Marks the future as running, so that a caller who is cancelled cannot cancel it. Otherwise the delivery report
        # would raise in the polling thread and end it.
        delivered.set_running_or_notify_cancel()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._connectivity.report_error(error)
                delivered.set_exception(KafkaException(error))
            else:
                self._connectivity.report_success()
                place = Place(topic, message.partition() or 0, message.offset() or 0)
                delivered.set_result(place)

        try:
            self._producer.produce(
                topic, value, key, partition=partition, headers=dict(headers or {}), on_delivery=on_delivery
            )
            # librdkafka checks `message.timeout.ms` only once a second, so it may report a timeout that much later.
            async with asyncio.timeout(self._settings.kafka_timeout):
                return await asyncio.wrap_future(delivered, loop=loop)
        except TimeoutError as error:
            self._connectivity.report_error(KafkaError(KafkaError._MSG_TIMED_OUT))
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
        except BufferError as error:
            raise QueueUnavailable("The queue's local buffer is full.", retry_after=_RETRY_AFTER) from error
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
                raise BodyTooLarge(f"The record of {len(value)} bytes is larger than Kafka takes.") from error
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
