"""Reading Kafka: a thread that polls without pause and hands runs of records to the event loop.

A Consumer belongs to its thread, so commits are left for that thread to make. Everything is read ahead; a bounded queue
between thread and loop is the only back-pressure.
"""

import asyncio
import contextlib
import logging
import operator
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from adapters.kafka_client import Connectivity, client_config
from config.settings import Settings
from tasks.log import Delivery, Place, Record, RecordKind, Records

log = logging.getLogger(__name__)

_RUN = 500
"""Records handed over at once: some 10 ms of work for who takes them."""
_QUEUED_RUNS = 8
_POLL_SECONDS = 0.05
CALL_SECONDS = 5.0
HANDOVER_SECONDS = 10.0


class Reader:
    """The thread, and the queue out of it."""

    def __init__(self, settings: Settings, outage: Connectivity) -> None:
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

    async def records(self) -> AsyncGenerator[Records, None]:
        """What is read, for a reader that is in no group."""
        async with contextlib.aclosing(self.deliveries()) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Records):
                    yield delivery

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """What is read, and the reader's share of it. Closing it ends the thread."""
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
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(HANDOVER_SECONDS)

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
                        client.list_topics(timeout=CALL_SECONDS)
                self._stop.wait(0.5)
        raise SystemExit

    def _cards_reader(self) -> Consumer:
        """A reader of all cards, after handing over those there are."""
        topic = self._settings.topic("models")
        consumer = self._consumer()
        # Asked before anything is fetched, since it would wait behind a fetch.
        _, end = self._persistently(
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
            place=Place(topic, message.partition() or 0, message.offset() or 0),
            timestamp=message.timestamp()[1] / 1000,
            key=key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key or ""),
            value=_bytes(message.value()),
            headers=_headers(message),
        )


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
