"""Records on a real lane that the service never writes: each becomes a dead letter, and the queue continues."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Message, Producer, TopicPartition

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from adapters.memory_runner import MemoryRunner
from adapters.memory_store import MemoryStore
from config.settings import Settings
from functions.consume.consumer import build_consumer
from tests.proofs.hostile.raw_kafka import write_header_name
from tests.support.kafka import kafka_settings
from tests.support.servers import KafkaServer
from tests.support.world import card

GOOD = b'{"task_id": "%s", "model_name": "sd-mini", "prompt": "a red circle"}'
LARGEST = 1_048_588 - 100
"""The largest value that a broker takes by default: its limit minus the overhead of the record."""


@asynccontextmanager
async def consuming(settings: Settings) -> AsyncIterator[MemoryStore]:
    """Run a consumer on the real log with a twin store and a twin runner. Yields the store."""
    store, log, clock = MemoryStore(), KafkaLog(settings), SystemClock()
    runner = MemoryRunner(card(), clock, 0.001)

    async def addresses() -> list[str]:
        return [runner.url]

    consumer = build_consumer(
        settings, task_log=log, store=store, clock=clock, addresses=addresses, connect=lambda _: runner
    )
    work = asyncio.ensure_future(consumer.run())
    try:
        yield store
        assert not work.done(), work
    finally:
        consumer.stop(grace=0)
        await work


def write(settings: Settings, value: bytes | None, key: Any = b"sd-mini", headers: Any = None, **config: Any) -> None:
    """Write one record to the first lane, as any Kafka client can."""
    most = {"message.max.bytes": 1_000_000_000, "queue.buffering.max.kbytes": 2_000_000}
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap_servers, **most, **config})
    errors: list[Any] = []
    producer.produce(
        settings.lane_names[0], value, key, headers=headers, on_delivery=lambda error, _: errors.append(error)
    )
    producer.flush(60)
    assert errors == [None]


def letters(settings: Settings, count: int) -> list[Message]:
    """The first `count` dead letters."""
    reader = KafkaConsumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    reader.assign([TopicPartition(settings.topic("dead_letter"), 0, 0)])
    messages: list[Message] = []
    while len(messages) < count:
        message = reader.poll(30)
        assert message is not None, f"{len(messages)} dead letters"
        assert message.error() is None
        messages.append(message)
    reader.close()
    return messages


async def wait_for_outcome(store: MemoryStore, task_id: str) -> None:
    async with asyncio.timeout(60):
        while await store.get_outcome(task_id) is None:
            await asyncio.sleep(0.05)


HOSTILE: dict[str, dict[str, Any]] = {
    "as large as the broker accepts": {"value": b"x" * LARGEST},
    "a compression bomb": {"value": b" " * 50_000_000, "compression.type": "zstd"},
    "a bomb of JSON": {"value": b"[" * 20_000_000, "compression.type": "gzip"},
    "no value": {"value": None},
    "no key": {"value": b"{", "key": None},
    "a key that is not UTF-8": {"value": b"{", "key": b"\xff\xfe\x00"},
    "odd headers": {"value": b"{", "headers": [("a", None), ("a", b"\xff"), ("", b""), ("kafka_dlt-x", b"y"), ("é\x00", b"z")]},
    "many headers": {"value": b"{", "headers": [(f"h{n}", b"x" * 100) for n in range(5000)]},
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
async def test_the_record_becomes_a_dead_letter_and_the_next_task_ends(kafka: KafkaServer, what: str) -> None:
    settings = kafka_settings(kafka.bootstrap)
    await asyncio.to_thread(create_topics, settings)
    record = HOSTILE[what]
    async with consuming(settings) as store:
        await asyncio.to_thread(lambda: write(settings, **record))
        task_id = uuid.uuid4().hex
        await asyncio.to_thread(write, settings, GOOD % task_id.encode())
        await wait_for_outcome(store, task_id)
        (letter,) = await asyncio.to_thread(letters, settings, 1)
        headers = dict(letter.headers() or [])
        assert headers["kafka_dlt-original-topic"] == settings.lane_names[0].encode()
        assert headers["kafka_dlt-exception-message"]
        value = record["value"] or b""
        if len(value) <= LARGEST:
            assert (letter.value() or b"") == value
        else:
            assert value.startswith(letter.value() or b"?")
            assert headers["kafka_dlt-original-size"] == str(len(value)).encode()


async def test_a_header_whose_name_is_not_utf8_stops_nothing(kafka: KafkaServer) -> None:
    settings = kafka_settings(kafka.bootstrap)
    await asyncio.to_thread(create_topics, settings)
    async with consuming(settings) as store:
        # After these records CPython has specialised the calls of the reader; see adapters/kafka_record.py.
        for task_id in (warm := [uuid.uuid4().hex for _ in range(40)]):
            await asyncio.to_thread(write, settings, GOOD % task_id.encode(), headers=[("a", b"b")])
        await wait_for_outcome(store, warm[-1])
        task_id = uuid.uuid4().hex
        value = GOOD % task_id.encode()
        await asyncio.to_thread(write_header_name, kafka.bootstrap, settings.lane_names[0], value, b"\xff\xfe")
        await wait_for_outcome(store, task_id)
