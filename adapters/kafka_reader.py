"""Reading Kafka: a thread that polls without pause and passes batches of records to the event loop.

A Consumer belongs to the thread that polls it: any call from another thread waits until that poll returns. So commits
are noted for that thread to send. The thread reads ahead as fast as it can, because a paused partition takes up to a
second to resume; the bounded queue between thread and event loop is the only back-pressure.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from adapters.kafka_client import Connectivity, client_config
from adapters.kafka_record import record_kinds, to_record
from config.settings import Settings
from tasks.log import Delivery, Records

logger = logging.getLogger(__name__)

_BATCH_RECORDS = 500
"""The largest batch: about 10 ms of work for the event loop that takes it."""
_QUEUED_BATCHES = 8
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 0.5
CALL_SECONDS = 5.0
"""How long one request to a broker may take."""
HANDOVER_SECONDS = 10.0
"""How long the thread waits for the event loop to take a revocation, and how long a close waits for the thread."""


class Reader:
    """The thread and the queue. A reader is read once, through `deliveries` or `records`."""

    def __init__(self, settings: Settings, connectivity: Connectivity) -> None:
        """Nothing is started before the deliveries are read."""
        self._settings = settings
        self._connectivity = connectivity
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._queue: asyncio.Queue[tuple[Delivery | BaseException, threading.Event]]
        self._thread = threading.Thread(target=self._work, name=type(self).__name__.lower(), daemon=True)
        self._kinds = record_kinds(settings)

    async def records(self) -> AsyncGenerator[Records, None]:
        """The records alone, for a reader without a group."""
        async with contextlib.aclosing(self.deliveries()) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Records):
                    yield delivery

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See GroupMember. Closing the generator ends the thread; an error of the thread is raised here."""
        self._loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue(_QUEUED_BATCHES)
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

    async def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, HANDOVER_SECONDS)

    def _work(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - `deliveries` raises every error that ends the thread
            self._put(error)

    def _read(self) -> None:
        """Read until `_stop` is set. Runs in the thread."""
        raise NotImplementedError

    def _put(self, delivery: Delivery | BaseException) -> threading.Event:
        """Queue a delivery, and wait for room. The event is set when the event loop has processed the delivery."""
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
                self._connectivity,
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

    def _until_answered(self, call: Callable[[], Any], client: Consumer | AdminClient | None = None) -> Any:
        """Repeat the call until it succeeds or the reader is closed. `client` is the client that makes the call."""
        while not self._stop.is_set():
            try:
                return call()
            except (KafkaException, TimeoutError) as error:  # TimeoutError: from a future of the admin client
                logger.debug("Kafka did not answer, asking again: %s", error)
                if client is not None:
                    # A broker that was restarted leads its partitions under a new epoch. The client only learns the
                    # epoch from fresh metadata, and until then every such call fails.
                    with contextlib.suppress(KafkaException):
                        client.list_topics(timeout=CALL_SECONDS)
                self._stop.wait(_RETRY_SECONDS)
        raise SystemExit  # ends only this thread

    def _models_reader(self) -> Consumer:
        """A consumer of the models topic, after all models that the topic holds now have been handed over."""
        topic = self._settings.topic("models")
        consumer = self._consumer()
        # Ask before the consumer fetches: on the same connection the request would wait behind a long poll.
        _, end = self._until_answered(
            lambda: consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=CALL_SECONDS)
        )
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        position = 0
        while position < end and not self._stop.is_set():
            messages = self._poll(consumer)
            self._hand_over(messages)
            position = max([position, *(1 + (message.offset() or 0) for message in messages)])
        return consumer

    def _poll(self, consumer: Consumer, timeout: float = _POLL_SECONDS) -> list[Message]:
        """The next messages, at most a batch. Raises KafkaException if the client cannot recover from an error."""
        first = consumer.poll(timeout)
        if first is None:
            return []
        messages = []
        for message in (first, *consumer.consume(_BATCH_RECORDS - 1, timeout=0)):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.fatal():
                raise KafkaException(error)
            else:
                logger.debug("Kafka reports an error, reading goes on: %s", error.str())
        if messages:
            self._connectivity.report_success()
        return messages

    def _hand_over(self, messages: Sequence[Message]) -> None:
        if messages:
            self._put(Records([to_record(message, self._kinds) for message in messages]))
