"""The log on Apache Kafka: what is written, and the face of what is read (kafka_owner.py, kafka_follower.py)."""

import asyncio
import concurrent.futures
import logging
import threading
import zlib
from collections.abc import AsyncGenerator, Mapping

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from adapters.kafka_client import Connectivity, client_config
from adapters.kafka_follower import Follower, Listener
from adapters.kafka_group import GroupReader
from adapters.kafka_topics import LARGEST, partition_counts
from config.settings import Settings
from tasks.capabilities import ServedModel
from tasks.errors import BodyTooLarge, QueueUnavailable
from tasks.events import Event, event_key
from tasks.log import Delivery, Partition, Place, Record, Records
from tasks.task import Task

log = logging.getLogger(__name__)

_AUTOMATIC = -1
_RETRY_AFTER = 2.0
_FLUSH_SECONDS = 5.0
_CUT = 64 * 1024
_PROBE_SECONDS = 1.0


class KafkaLog:
    """See TaskLog. One producer, and readers with a thread each."""

    def __init__(self, settings: Settings) -> None:
        """Connects in the background; a broker that is away is no error here."""
        self._settings = settings
        self._outage = Connectivity()
        self._producer = Producer(
            client_config(
                settings,
                self._outage,
                **{
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 0,
                    "message.max.bytes": LARGEST,
                    "partitioner": "murmur2_random",
                    "message.timeout.ms": int(settings.kafka_timeout * 1000),
                    "topic.metadata.propagation.max.ms": 1000,
                },
            )
        )
        self._admin = AdminClient(client_config(settings, self._outage))
        self._owner: GroupReader | None = None
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._poller.start()

    @property
    def events_topic(self) -> str:
        """See TaskLog."""
        return self._settings.topic("events")

    def _poll(self) -> None:
        # The first message of an idempotent producer would wait half a second for what this asks.
        warm = False
        while not self._closed.is_set():
            if not warm or self._outage.doubted:
                # While the brokers are known to be away nothing is appended that could tell that they are back.
                warm = self._answers()
            # Whoever appended must hear how it went, at all times.
            self._producer.poll(0.1)

    def _answers(self) -> bool:
        answers = self._outage.answers
        try:
            self._producer.list_topics(timeout=_PROBE_SECONDS)
        except KafkaException:
            self._outage.fails(answers)
            return False
        self._outage.works()
        return True

    def _refuse_while_away(self) -> None:
        if self._outage.away:
            raise QueueUnavailable(retry_after=_RETRY_AFTER)

    async def append_task(self, task: Task) -> Place:
        """See TaskLog."""
        headers = {"content-type": b"application/json"}
        if task.traceparent:
            headers["traceparent"] = task.traceparent.encode()
        value = task.model_dump_json().encode()
        if len(value) > self._settings.record_limit:
            raise BodyTooLarge(f"The task takes {len(value)} bytes; at most {self._settings.record_limit} are allowed.")
        return await self._append(task.topic, _AUTOMATIC, self._lane_key(task), value, headers)

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """See TaskLog."""
        return await self._append(self.events_topic, partition, event_key(event), event.model_dump_json().encode())

    def emit(self, event: Event, partition: Partition) -> None:
        """See TaskLog."""
        try:
            self._producer.produce(
                self.events_topic, event.model_dump_json().encode(), event_key(event), partition=partition
            )
        except (BufferError, KafkaException):
            log.debug("an event was dropped", extra={"task_id": event.task_id})

    async def append_card(self, card: ServedModel) -> None:
        """See TaskLog."""
        await self._append(self._settings.topic("models"), _AUTOMATIC, card.model, card.model_dump_json().encode())

    async def dead_letter(self, record: Record, reason: str) -> None:
        """See TaskLog. The headers are those Spring's and Connect's dead letters carry. Of a record that Kafka does not
        take only the beginning is kept, and its size said."""
        about = {
            "kafka_dlt-exception-fqcn": "tasks.task.TaskRecord",
            "kafka_dlt-exception-message": reason,
            "kafka_dlt-original-topic": record.place.topic,
            "kafka_dlt-original-partition": str(record.place.partition),
            "kafka_dlt-original-offset": str(record.place.offset),
            "kafka_dlt-original-timestamp": str(int(record.timestamp * 1000)),
            "kafka_dlt-original-consumer-group": self._settings.kafka_group,
        }
        topic, ours = self._settings.topic("dead_letter"), {name: value.encode() for name, value in about.items()}
        try:
            await self._append(topic, _AUTOMATIC, record.key, record.value, {**record.headers, **ours})
        except BodyTooLarge:
            # What can be read may be larger than what can be written: Kafka's limits are on compressed bytes.
            ours["kafka_dlt-original-size"] = str(len(record.value)).encode()
            await self._append(topic, _AUTOMATIC, record.key[:_CUT], record.value[:_CUT], ours)

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """See TaskLog."""
        return Follower(self._settings, self._outage, offsets).records()

    def own(self) -> AsyncGenerator[Delivery, None]:
        """See TaskLog."""
        self._owner = GroupReader(
            self._settings, self._outage, self._admin, lambda: self._producer.flush(_FLUSH_SECONDS)
        )
        return self._owner.deliveries()

    def listen(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """See TaskLog."""
        return Listener(self._settings, self._outage, offsets).records()

    def commit(self, lane: str, partition: Partition, offset: int) -> None:
        """See TaskLog."""
        if self._owner is not None:
            self._owner.commit(lane, partition, offset)

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """See TaskLog."""
        topics = (*self._settings.lane_names, self.events_topic)
        timeout = self._settings.kafka_timeout
        loop = asyncio.get_running_loop()
        self._refuse_while_away()
        try:
            counts = await loop.run_in_executor(None, partition_counts, self._admin, timeout)
            asked = {
                TopicPartition(topic, partition): OffsetSpec.latest()
                for topic in topics
                for partition in range(counts.get(topic, 0))
            }
            futures = await loop.run_in_executor(None, lambda: self._admin.list_offsets(asked, request_timeout=timeout))
            found = await asyncio.wait_for(
                asyncio.gather(*(asyncio.wrap_future(future) for future in futures.values())), timeout
            )
        except (KafkaException, TimeoutError) as error:
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
        return {(tp.topic, tp.partition): one.offset for tp, one in zip(futures, found, strict=True)}

    async def close(self) -> None:
        """See TaskLog."""
        loop = asyncio.get_running_loop()
        if self._owner is not None:
            await loop.run_in_executor(None, self._owner.close)
        await loop.run_in_executor(None, self._producer.flush, _FLUSH_SECONDS)
        self._closed.set()
        await loop.run_in_executor(None, self._poller.join)

    def _lane_key(self, task: Task) -> str:
        shards = self._settings.lane_shards.get(task.model_name, 1)
        if shards <= 1:
            return task.model_name
        return f"{task.model_name}/{zlib.crc32(task.task_id.encode()) % shards}"

    async def _append(
        self, topic: str, partition: Partition, key: str, value: bytes, headers: Mapping[str, bytes] | None = None
    ) -> Place:
        self._refuse_while_away()
        loop = asyncio.get_running_loop()
        delivered: concurrent.futures.Future[Place] = concurrent.futures.Future()
        # A caller that gives up must not cancel it: setting it would then raise in the polling thread and end that.
        delivered.set_running_or_notify_cancel()

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._outage.error(error)
                delivered.set_exception(KafkaException(error))
            else:
                self._outage.works()
                place = Place(topic, message.partition() or 0, message.offset() or 0)
                delivered.set_result(place)

        try:
            self._producer.produce(
                topic, value, key, partition=partition, headers=dict(headers or {}), on_delivery=on_delivery
            )
            # librdkafka's own limit is looked at once a second, and takes that long more.
            async with asyncio.timeout(self._settings.kafka_timeout):
                return await asyncio.wrap_future(delivered, loop=loop)
        except TimeoutError as error:
            self._outage.error(KafkaError(KafkaError._MSG_TIMED_OUT))
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
        except BufferError as error:
            raise QueueUnavailable("The queue's local buffer is full.", retry_after=_RETRY_AFTER) from error
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
                raise BodyTooLarge(f"The record of {len(value)} bytes is larger than Kafka takes.") from error
            raise QueueUnavailable(retry_after=_RETRY_AFTER) from error
