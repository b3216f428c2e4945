"""Some of the points at which a consumer dies, on the real broker and store. The scenarios run side by side."""

import asyncio
import multiprocessing
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import TypeVar

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from adapters.s3_store import S3Store, create_bucket
from config.settings import Settings, load_settings
from tasks.accept import accept
from tasks.errors import QueueUnavailable
from tasks.events import CancelRequested, Outcome, parse_event
from tasks.log import Place, Record
from tasks.task import GenerateRequest, Task
from tests.proofs.crash.ports import Point
from tests.proofs.crash.process import consume
from tests.proofs.crash.scenario import FaultCase, run_case
from tests.proofs.crash.story import CARDS, CARDS_WITHOUT_RUNNERS, ONE, POISON, Expected, run_story
from tests.support.servers import KafkaServer, S3Server

T = TypeVar("T")
SEED, SCENARIOS = 7, 10
TIMING_DEPENDENT = {
    *("append card", "sleep"),
    *("delivery of assigned", "delivery of records", "delivery of revoked", "delivery to an orphan"),
}
"""How often a consumer makes these calls depends on the speed of the real servers."""
READY_SECONDS, SCENARIO_SECONDS = 120.0, 240.0
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.proofs.crash.process"])


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat the call until the servers answer in time: many scenarios at once keep them busy."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                return await call()
            except QueueUnavailable:
                await asyncio.sleep(0.1)


@dataclass
class RealScenario:
    """One queue on the real servers. Its first consumer dies at the point."""

    settings: Settings
    environment: dict[str, str]
    point: Point
    records: list[Record] = field(default_factory=list)
    consumers: dict[str, ForkServerProcess] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    successors: list["asyncio.Future[None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock, self.client, self.store = SystemClock(), KafkaLog(self.settings), S3Store(self.settings)

    async def submit(self, **body: object) -> Task:
        request = GenerateRequest.model_validate(body)
        task = accept(
            request,
            task_id=uuid.uuid4().hex,
            models={card.model: card for card in CARDS},
            lanes=self.settings.lane_names,
            created_at=self.clock.now(),
        )
        await self.append(task)
        return task

    async def append(self, task: Task) -> None:
        self.places[task.task_id] = await retry_until_available(lambda: self.client.append_task(task))

    async def poison(self) -> None:
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "partitioner": "murmur2"})
        producer.produce(self.settings.lane_names[0], POISON, ONE)
        assert await asyncio.to_thread(producer.flush, READY_SECONDS) == 0

    async def cancel(self, task: Task) -> None:
        event = CancelRequested(task_id=task.task_id, at=self.clock.now())
        await retry_until_available(lambda: self.client.append_event(event, self.places[task.task_id].partition))

    async def launch(self, name: str) -> None:
        point = self.point if name == "first" else None
        process = PROCESSES.Process(target=consume, args=(self.settings, self.environment, point), daemon=True)
        process.start()
        self.consumers[name] = process
        if name == "first":
            self.successors.append(asyncio.ensure_future(self._start_successor(process)))
            await self.until(lambda: self.died or bool(self.of_kind("event")), READY_SECONDS)

    async def leave(self, name: str) -> None:
        self.consumers[name].terminate()

    async def wait(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    @property
    def died(self) -> bool:
        """Whether the first consumer died at its point."""
        return self.consumers["first"].exitcode is not None

    async def _start_successor(self, process: ForkServerProcess) -> None:
        while process.exitcode is None:
            await asyncio.sleep(0.1)
        await self.launch("successor")

    async def read(self) -> None:
        """Read every record of the log until canceled."""
        async with aclosing(self.client.follow({})) as batches:
            async for batch in batches:
                self.records += batch.records

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a kind so far."""
        return [record for record in self.records if record.kind == kind]

    def outcomes(self, task: Task) -> list[Outcome]:
        """The announced outcomes of the task."""
        events = [parse_event(record.value) for record in self.of_kind("event") if record.key == task.task_id]
        return [event for event in events if isinstance(event, Outcome)]

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came to hold within so many seconds."""
        end = self.clock.monotonic() + seconds
        while not holds():
            if self.clock.monotonic() > end:
                return False
            await asyncio.sleep(0.1)
        return True

    async def run(self) -> list[str]:
        """The whole scenario, and then until nothing is left to do. Returns the broken promises, as sentences."""
        reading = asyncio.ensure_future(self.read())
        try:
            for card in CARDS_WITHOUT_RUNNERS:
                await retry_until_available(lambda: self.client.append_card(card))  # noqa: B023
            expected = await run_story(self)
            died = self.died
            if not died:
                self.consumers["first"].kill()
            await self.until(lambda: all(self.outcomes(task.task) for task in expected.values()), SCENARIO_SECONDS)
            at_end = await self.watermark_at_end()
            broken = [f"{name}: {what}" for name, task in expected.items() for what in await self._broken_for(task)]
            if not died:
                broken.append("the scenario never reached the point")
            if not at_end:
                broken.append("the watermark is not at the end")
            if POISON not in await asyncio.to_thread(self.dead_letters):
                broken.append("the poison record is not a dead letter")
            return broken
        finally:
            background = [reading, *self.successors]
            for work in background:
                work.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            for process in self.consumers.values():
                process.kill()
                await asyncio.to_thread(process.join, 10)
            await self.client.close()
            self.store.close()

    async def _broken_for(self, expected: Expected) -> list[str]:
        announced = self.outcomes(expected.task)
        stored = await self.store.get_outcome(expected.task.task_id)
        if stored is None or not announced:
            return [f"has no outcome: stored {stored}, announced {announced}"]
        broken = (
            [] if all(outcome == stored for outcome in announced) else ["the announced outcome is not the stored one"]
        )
        if stored.status not in expected.ends:
            broken.append(f"ended {stored.status}")
        if stored.status == "completed" and len(stored.images) != expected.task.image_params.num_images:
            broken.append(f"has {len(stored.images)} pictures")
        for image in stored.images:
            if len(await self.store.get_image(image.key)) != image.size:
                broken.append(f"the picture {image.key} is not whole")
        return broken

    async def watermark_at_end(self) -> bool:
        """Whether every lane is committed to its end before the time limit."""
        ends = await retry_until_available(self.client.ends)
        lanes = {key: end for key, end in ends.items() if key[0] in self.settings.lane_names and end}
        consumer = Consumer(self._reader())
        partitions = [TopicPartition(*key) for key in lanes]
        limit = self.clock.monotonic() + READY_SECONDS
        try:
            while self.clock.monotonic() < limit:
                committed = await asyncio.to_thread(consumer.committed, partitions, READY_SECONDS)
                if {(tp.topic, tp.partition): tp.offset for tp in committed} == lanes:
                    return True
                await asyncio.sleep(0.2)
            return False
        finally:
            consumer.close()

    def dead_letters(self) -> list[bytes]:
        """The values of all dead letters; waits for the first."""
        consumer = Consumer(self._reader())
        consumer.assign([TopicPartition(self.settings.topic("dead_letter"), 0, 0)])
        messages = consumer.consume(10, timeout=READY_SECONDS / 10)
        consumer.close()
        return [message.value() or b"" for message in messages if message.error() is None]

    def _reader(self) -> dict[str, object]:
        return {
            "bootstrap.servers": self.settings.kafka_bootstrap_servers,
            "group.id": self.settings.kafka_group,
            "enable.auto.commit": False,
        }


@pytest.fixture
def servers(kafka: KafkaServer, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a process that uses the real servers."""
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "S3_BUCKET": f"b{uuid.uuid4().hex[:12]}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    create_bucket(load_settings())
    return environment


@asynccontextmanager
async def real_scenario(environment: dict[str, str], point: Point) -> AsyncIterator[RealScenario]:
    """A scenario with its own topics, its own group and its own prefix in the bucket."""
    name = f"t{uuid.uuid4().hex[:8]}"
    own = {"kafka_topic_prefix": name, "kafka_group": f"{name}.group", "kafka_partitions": 2, "s3_prefix": f"{name}/"}
    settings = load_settings().model_copy(update=own)
    await asyncio.to_thread(create_topics, settings)
    scenario = RealScenario(settings, environment, point)
    await retry_until_available(scenario.client.ends)
    yield scenario


async def sampled() -> list[Point]:
    """Points of the scenario on twins: one point each of SCENARIOS different calls."""
    passed = (await run_case(FaultCase())).fault.passed
    pick = random.Random(SEED)
    calls = pick.sample(sorted({point.call for point in passed} - TIMING_DEPENDENT), SCENARIOS)
    return [pick.choice([point for point in passed if point.call == call and point.nth <= 2]) for call in calls]


@pytest.mark.timeout(600)
async def test_a_consumer_killed_on_real_servers_loses_doubles_and_blocks_nothing(servers: dict[str, str]) -> None:
    async def broken_promises(point: Point) -> list[str]:
        async with real_scenario(servers, point) as scenario:
            return await scenario.run()

    points = await sampled()
    results = await asyncio.gather(*map(broken_promises, points))
    print(*map(str, points), sep="\n")
    assert not {str(point): broken for point, broken in zip(points, results, strict=True) if broken}
