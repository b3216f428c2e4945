"""Some of the points at which a consumer dies, on the real broker and store: the days are lived side by side."""

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
from tests.proofs.crash.scenario import Play, day
from tests.proofs.crash.story import CARDS, CARDS_BEFORE, ONE, POISON, Expected, tell
from tests.support.servers import KafkaServer, S3Server

T = TypeVar("T")
SEED, DAYS = 7, 10
BY_CHANCE = {
    *("append card", "sleep"),
    *("delivery of assigned", "delivery of records", "delivery of revoked", "delivery to an orphan"),
}
"""How often these happen depends on how quick the real servers are."""
READY_SECONDS, DAY_SECONDS = 120.0, 240.0
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.proofs.crash.process"])


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Ask until the servers, which so many days at once keep busy, answer in time."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            try:
                return await call()
            except QueueUnavailable:
                await asyncio.sleep(0.1)


@dataclass
class RealDay:
    """One queue on the real servers; its first consumer dies at the point."""

    settings: Settings
    environment: dict[str, str]
    point: Point
    records: list[Record] = field(default_factory=list)
    consumers: dict[str, ForkServerProcess] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    following: list["asyncio.Future[None]"] = field(default_factory=list)

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
        self.places[task.task_id] = await insist(lambda: self.client.append_task(task))

    async def poison(self) -> None:
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers, "partitioner": "murmur2"})
        producer.produce(self.settings.lane_names[0], POISON, ONE)
        assert await asyncio.to_thread(producer.flush, READY_SECONDS) == 0

    async def cancel(self, task: Task) -> None:
        event = CancelRequested(task_id=task.task_id, at=self.clock.now())
        await insist(lambda: self.client.append_event(event, self.places[task.task_id].partition))

    async def launch(self, name: str) -> None:
        point = self.point if name == "first" else None
        process = PROCESSES.Process(target=consume, args=(self.settings, self.environment, point), daemon=True)
        process.start()
        self.consumers[name] = process
        if name == "first":
            self.following.append(asyncio.ensure_future(self._follow_up(process)))
            await self.until(lambda: self.struck or bool(self.of_kind("event")), READY_SECONDS)

    async def leave(self, name: str) -> None:
        self.consumers[name].terminate()

    async def wait(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    @property
    def struck(self) -> bool:
        """Whether the first consumer came to its point."""
        return self.consumers["first"].exitcode is not None

    async def _follow_up(self, process: ForkServerProcess) -> None:
        while process.exitcode is None:
            await asyncio.sleep(0.1)
        await self.launch("heir")

    async def read(self) -> None:
        """Read everything, for ever."""
        async with aclosing(self.client.follow({})) as runs:
            async for run in runs:
                self.records += run.records

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a kind so far."""
        return [record for record in self.records if record.kind == kind]

    def outcomes(self, task: Task) -> list[Outcome]:
        """The announced outcomes of the task."""
        found = [parse_event(one.value) for one in self.of_kind("event") if one.key == task.task_id]
        return [event for event in found if isinstance(event, Outcome)]

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it came to hold within so many seconds."""
        end = self.clock.monotonic() + seconds
        while not holds():
            if self.clock.monotonic() > end:
                return False
            await asyncio.sleep(0.1)
        return True

    async def live(self) -> list[str]:
        """The whole day, and on until nothing is left to do: the promises that do not hold, in words."""
        reading = asyncio.ensure_future(self.read())
        try:
            for card in CARDS_BEFORE:
                await insist(lambda: self.client.append_card(card))  # noqa: B023
            asked = await tell(self)
            met = self.struck
            if not met:
                self.consumers["first"].kill()
            await self.until(lambda: all(self.outcomes(one.task) for one in asked.values()), DAY_SECONDS)
            at_end = await self.watermark_at_end()
            wrong = [f"{name}: {what}" for name, one in asked.items() for what in await self._broken_about(one)]
            if not met:
                wrong.append("the day never came to the point")
            if not at_end:
                wrong.append("the watermark does not stand at the end")
            if POISON not in await asyncio.to_thread(self.dead_letters):
                wrong.append("the poison record is not with the dead letters")
            return wrong
        finally:
            for one in (beside := [reading, *self.following]):
                one.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            for process in self.consumers.values():
                process.kill()
                await asyncio.to_thread(process.join, 10)
            await self.client.close()
            self.store.close()

    async def _broken_about(self, expected: Expected) -> list[str]:
        told = self.outcomes(expected.task)
        stored = await self.store.get_outcome(expected.task.task_id)
        if stored is None or not told:
            return [f"has no outcome: stored {stored}, announced {told}"]
        wrong = [] if all(one == stored for one in told) else ["what was announced is not what is stored"]
        if stored.status not in expected.ends:
            wrong.append(f"ended {stored.status}")
        if stored.status == "completed" and len(stored.images) != expected.task.image_params.num_images:
            wrong.append(f"has {len(stored.images)} pictures")
        for image in stored.images:
            if len(await self.store.get_image(image.key)) != image.size:
                wrong.append(f"the picture {image.key} is not whole")
        return wrong

    async def watermark_at_end(self) -> bool:
        """Whether every lane came to be committed to its end."""
        ends = await insist(self.client.ends)
        lanes = {key: end for key, end in ends.items() if key[0] in self.settings.lane_names and end}
        consumer = Consumer(self._reader())
        asked = [TopicPartition(*key) for key in lanes]
        limit = self.clock.monotonic() + READY_SECONDS
        try:
            while self.clock.monotonic() < limit:
                found = await asyncio.to_thread(consumer.committed, asked, READY_SECONDS)
                if {(tp.topic, tp.partition): tp.offset for tp in found} == lanes:
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
    """The environment of whoever uses the real servers."""
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
async def a_place(environment: dict[str, str], point: Point) -> AsyncIterator[RealDay]:
    """Topics, a group and a part of the bucket of its own."""
    name = f"t{uuid.uuid4().hex[:8]}"
    own = {"kafka_topic_prefix": name, "kafka_group": f"{name}.group", "kafka_partitions": 2, "s3_prefix": f"{name}/"}
    settings = load_settings().model_copy(update=own)
    await asyncio.to_thread(create_topics, settings)
    made = RealDay(settings, environment, point)
    await insist(made.client.ends)
    yield made


async def sampled() -> list[Point]:
    """Points of the day on twins, one of each of as many calls."""
    seen = (await day(Play())).fate.passed
    pick = random.Random(SEED)
    calls = pick.sample(sorted({point.call for point in seen} - BY_CHANCE), DAYS)
    return [pick.choice([point for point in seen if point.call == call and point.nth <= 2]) for call in calls]


@pytest.mark.timeout(600)
async def test_a_consumer_killed_on_real_servers_loses_doubles_and_blocks_nothing(servers: dict[str, str]) -> None:
    async def lived(point: Point) -> list[str]:
        async with a_place(servers, point) as made:
            return await made.live()

    points = await sampled()
    verdicts = await asyncio.gather(*map(lived, points))
    print(*map(str, points), sep="\n")
    assert not {str(point): wrong for point, wrong in zip(points, verdicts, strict=True) if wrong}
