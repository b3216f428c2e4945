"""The bench of the tests of the log: the twin and the real broker with the same interface."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, TopicPartition

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from adapters.memory_log import DEAD_LETTERS, MemoryBroker, MemoryLog
from config.settings import Settings
from tasks.accept import accept
from tasks.errors import QueueUnavailable
from tasks.ports import GroupMember, TaskLog
from tasks.task import GenerateRequest, Task
from tests.adapters.reading import DEADLINE
from tests.support.kafka import PARTITIONS, kafka_settings
from tests.support.world import card


@dataclass
class LogBench:
    """A broker of its own, and as many logs on it as a test asks for."""

    settings: Settings
    connect: Callable[[], TaskLog]
    dead_letters: Callable[[], list[tuple[bytes, dict[str, bytes]]]]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def log(self) -> TaskLog:
        """The log of one more process."""
        log = self.connect()
        self.stack.push_async_callback(log.close)
        return log

    def owner(self, log: TaskLog | None = None) -> GroupMember:
        """A consumer's member of the consumers' group, as `build_consumer` joins it."""
        log = log or self.log()
        topics = (*self.settings.lane_names, log.events_topic)
        return log.join(self.settings.kafka_group, topics, replayed=log.events_topic)

    def task(self, model: str = "sd-mini", lane: int = 0) -> Task:
        """A new task."""
        request = GenerateRequest(model_name=model, prompt="a red circle", topic=self.settings.lane_names[lane])
        return accept(
            request,
            task_id=uuid.uuid4().hex,
            models={model: card(model)},
            lanes=self.settings.lane_names,
            created_at=SystemClock().now(),
        )


@pytest.fixture(params=["memory", "kafka"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[LogBench]:
    """Each test runs on the twin and on the real broker."""
    if request.param == "memory":
        settings = Settings(kafka_partitions=PARTITIONS)
        broker = MemoryBroker(settings.lane_names, SystemClock(), PARTITIONS, settings.kafka_group)
        log_bench = LogBench(
            settings,
            lambda: MemoryLog(broker),
            lambda: [(r.value, dict(r.headers)) for r in broker.topics[DEAD_LETTERS][0]],
        )
    else:
        settings = kafka_settings(request.getfixturevalue("kafka").bootstrap)
        create_topics(settings)
        await _wait_for_leaders(settings)
        log_bench = LogBench(settings, lambda: KafkaLog(settings), lambda: _dead_letters(settings))
    async with log_bench.stack:
        yield log_bench


async def _wait_for_leaders(settings: Settings) -> None:
    """A broker lists a new topic a moment before each partition has a leader."""
    log = KafkaLog(settings)
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await log.ends()
                break
            except QueueUnavailable:
                await asyncio.sleep(0.05)
    await log.close()


def _dead_letters(settings: Settings) -> list[tuple[bytes, dict[str, bytes]]]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "dead-letters"})
    consumer.assign([TopicPartition(settings.topic("dead_letter"), 0, 0)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None and message.error() is None
    return [(message.value() or b"", dict(message.headers() or []))]  # type: ignore[misc]
