"""The same promises of both logs: the in-memory twin, and Kafka."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from adapters.clock import SystemClock
from adapters.kafka_log import KafkaLog
from adapters.kafka_topics import create_topics
from adapters.memory_log import DEAD_LETTERS, MemoryBroker, MemoryLog
from config.settings import Settings
from tasks.accept import accept
from tasks.errors import QueueUnavailable
from tasks.events import CancelRequested, Event, Progress, parse_event
from tasks.ports import Assigned, Delivery, Partition, Record, Records, Revoked, TaskLog
from tasks.task import GenerateRequest, Task
from tests.conftest import free_ports
from tests.consume.world import card

PARTITIONS = 4
ALL = frozenset(range(PARTITIONS))
DEADLINE = 30.0


def kafka_settings(bootstrap: str, **more: object) -> Settings:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return Settings.model_validate(
        {
            "kafka_bootstrap_servers": bootstrap,
            "kafka_topic_prefix": prefix,
            "kafka_group": f"{prefix}.group",
            "kafka_partitions": PARTITIONS,
            **more,
        }
    )


@dataclass
class Logs:
    """One broker, and as many processes on it as a test wants."""

    lanes: tuple[str, ...]
    new: Callable[[], TaskLog]
    dead_letters: Callable[[], list[tuple[str, bytes, Mapping[str, bytes]]]]

    def task(self, **body: object) -> Task:
        request = GenerateRequest.model_validate({"model_name": "sd-mini", "prompt": "a red circle"} | body)
        cards = {"sd-mini": card()}
        return accept(request, task_id=uuid.uuid4().hex, cards=cards, lanes=self.lanes, created_at=time.time())


@pytest.fixture(params=["memory", "kafka"])
async def logs(request: pytest.FixtureRequest) -> AsyncIterator[Logs]:
    opened: list[TaskLog] = []

    def opening(make: Callable[[], TaskLog]) -> Callable[[], TaskLog]:
        def new() -> TaskLog:
            opened.append(make())
            return opened[-1]

        return new

    if request.param == "memory":
        broker = MemoryBroker(Settings().lane_names, SystemClock(), PARTITIONS)
        yield Logs(
            broker.lanes,
            opening(lambda: MemoryLog(broker)),
            lambda: [(one.key, one.value, one.headers) for one in broker.topics[DEAD_LETTERS][0]],
        )
    else:
        settings = kafka_settings(request.getfixturevalue("kafka").bootstrap)
        create_topics(settings)
        yield Logs(settings.lane_names, opening(lambda: KafkaLog(settings)), lambda: dead_letters_on_kafka(settings))
    await asyncio.gather(*(log.close() for log in opened))


def dead_letters_on_kafka(settings: Settings) -> list[tuple[str, bytes, Mapping[str, bytes]]]:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "none"})
    consumer.assign([TopicPartition(settings.topic("dead_letter"), 0, OFFSET_BEGINNING)])
    try:
        message = consumer.poll(DEADLINE)
        return [] if message is None else [(message.key().decode(), message.value(), dict(message.headers() or []))]
    finally:
        consumer.close()


@dataclass
class Reading:
    """What one reader has been given so far."""

    got: list[Delivery] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        return [record for one in self.got if isinstance(one, Records) for record in one.records]

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def task_ids(self) -> list[str]:
        return [Task.model_validate_json(record.value).task_id for record in self.of("task")]

    def events(self, partition: Partition) -> list[Event | None]:
        return [parse_event(record.value) for record in self.of("event") if record.place.partition == partition]

    def owned(self) -> frozenset[Partition]:
        owned: set[Partition] = set()
        for one in self.got:
            if isinstance(one, Assigned):
                assert not owned & one.events_until.keys(), "assigned what was owned already"
                owned |= one.events_until.keys()
            elif isinstance(one, Revoked):
                assert one.partitions <= owned, "revoked what was not owned"
                owned -= one.partitions
        return frozenset(owned)

    def events_until(self, partition: Partition) -> int:
        return next(one.events_until[partition] for one in self.got if partition in getattr(one, "events_until", ()))


@asynccontextmanager
async def reading(stream: AsyncGenerator[Delivery, None] | AsyncGenerator[Records, None]) -> AsyncIterator[Reading]:
    seen = Reading()

    async def collect() -> None:
        async for one in stream:
            seen.got.append(one)

    work = asyncio.ensure_future(collect())
    try:
        yield seen
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.02)


async def test_what_is_appended_is_read_in_order_by_a_follower_and_by_an_owner_and_the_cards_come_first(logs: Logs):
    log = logs.new()
    tasks = [logs.task() for _ in range(5)]
    await log.append_card(card())
    places = [await log.append_task(task) for task in tasks]
    partition = places[0].partition
    assert [place.offset for place in places] == list(range(5))
    assert {(place.topic, place.partition) for place in places} == {(logs.lanes[0], partition)}
    cancels = [CancelRequested(task_id=task.task_id, at=1.0) for task in tasks]
    for cancel in cancels:
        assert (await log.append_event(cancel, partition)).partition == partition

    async with reading(log.follow({})) as follower, reading(log.own()) as owner:
        for reader in (follower, owner):
            await until(lambda: len(reader.records) >= 11, "every record is read")  # noqa: B023
            assert reader.records[0].kind == "card"
            assert len(reader.of("card")) == 1
            assert reader.task_ids() == [task.task_id for task in tasks]
            assert reader.events(partition) == cancels
            assert [record.place for record in reader.of("task")] == places
            assert all(abs(record.timestamp - time.time()) < 60 for record in reader.of("task"))
            assert {record.lane for record in reader.of("task")} == {logs.lanes[0]}
        assert owner.owned() == ALL
        assert isinstance(next(one for one in owner.got if not one_is_card(one)), Assigned)


def one_is_card(one: Delivery) -> bool:
    return isinstance(one, Records) and all(record.kind == "card" for record in one.records)


async def test_ends_are_one_past_the_last_record_and_a_follower_reaches_them(logs: Logs):
    log = logs.new()
    place = await log.append_task(logs.task(topic=logs.lanes[1]))
    await log.append_event(CancelRequested(task_id="0" * 32, at=1.0), 3)
    ends = await log.ends()
    expected = {(topic, p): 0 for topic in (*logs.lanes, log.events_topic) for p in ALL}
    assert ends == expected | {(logs.lanes[1], place.partition): 1, (log.events_topic, 3): 1}

    async with reading(log.follow({})) as follower:
        await until(lambda: len(follower.records) == 2, "the two records are read")
        starts = next(one.starts for one in follower.got if isinstance(one, Records) and one.starts)
        reached = {key: starts[key] for key in ends}
        for record in follower.records:
            reached[record.place.topic, record.place.partition] = record.place.offset + 1
        assert reached == ends


async def test_a_follower_resumes_where_it_is_told(logs: Logs):
    log = logs.new()
    tasks = [logs.task() for _ in range(3)]
    places = [await log.append_task(task) for task in tasks]
    await log.append_event(CancelRequested(task_id=tasks[0].task_id, at=1.0), 0)
    offsets = {(logs.lanes[0], places[0].partition): 2, (log.events_topic, 0): 1}
    async with reading(log.follow(offsets)) as follower:
        await log.append_event(CancelRequested(task_id=tasks[1].task_id, at=1.0), 0)
        await until(lambda: len(follower.records) == 2, "what came after is read")
        assert follower.task_ids() == [tasks[2].task_id]
        assert [event.task_id for event in follower.events(0) if event] == [tasks[1].task_id]


async def test_a_card_published_later_reaches_followers_and_owners(logs: Logs):
    log = logs.new()
    async with reading(log.follow({})) as follower, reading(log.own()) as owner:
        await until(lambda: owner.owned() == ALL, "the owner owns all")
        await log.append_card(card("late"))
        for reader in (follower, owner):
            await until(lambda: [one.key for one in reader.of("card")] == ["late"], "the card is read")  # noqa: B023


async def test_a_new_owner_knows_how_far_to_read_to_have_every_event_of_the_owner_before_it(logs: Logs):
    first, second = logs.new(), logs.new()
    events = [Progress(task_id="0" * 32, at=1.0, attempt=1, owner="a", step=step, steps=50) for step in range(50)]
    async with reading(first.own()) as before:
        await until(lambda: before.owned() == ALL, "the first owner owns all")
        for event in events:
            first.emit(event, 2)
    await first.close()
    async with reading(second.own()) as after:
        await until(lambda: after.owned() == ALL, "the second owner owns all")
        assert after.events_until(2) >= 50
        await until(lambda: len(after.events(2)) == 50, "the events are read")
        assert after.events(2) == events
        assert after.of("event")[-1].place.offset < after.events_until(2)


async def test_an_owner_begins_where_the_last_one_committed_and_a_commit_never_goes_back(logs: Logs):
    first, second = logs.new(), logs.new()
    tasks = [logs.task() for _ in range(4)]
    place = [await first.append_task(task) for task in tasks][0]
    async with reading(first.own()) as before:
        await until(lambda: len(before.of("task")) == 4, "the first owner reads all")
        first.commit(place.topic, place.partition, 3)
        await asyncio.sleep(0.3)  # over the interval in which commits are made, so that there are two
        first.commit(place.topic, place.partition, 1)
        second.commit(place.topic, place.partition, 4)  # it owns nothing
    await first.close()
    async with reading(second.own()) as after:
        await until(lambda: len(after.of("task")) >= 1, "the second owner reads on")
        assert after.task_ids() == [tasks[3].task_id]


async def test_two_owners_share_the_partitions_and_one_that_leaves_gives_its_own_back(logs: Logs):
    first, second, third = logs.new(), logs.new(), logs.new()
    task = logs.task()
    place = await first.append_task(task)
    async with reading(first.own()) as one:
        await until(lambda: one.owned() == ALL, "the first owns all")
        async with reading(second.own()) as two:
            await until(lambda: one.owned() | two.owned() == ALL and bool(one.owned()) and bool(two.owned()), "shared")
            await until(lambda: not one.owned() & two.owned(), "no partition has two owners")
            assert len(one.owned()) == len(two.owned()) == PARTITIONS // 2
            stranger = second if place.partition in one.owned() else first
            stranger.commit(place.topic, place.partition, 1)
            await until(lambda: task.task_id in (one.task_ids() + two.task_ids()), "its owner reads the task")
        await second.close()
        await until(lambda: one.owned() == ALL, "the first owns all again")
    await first.close()
    async with reading(third.own()) as three:
        await until(lambda: three.task_ids() == [task.task_id], "a stranger's commit counted")


async def test_a_dead_letter_is_the_whole_record_with_the_reason(logs: Logs):
    log = logs.new()
    await log.append_task(logs.task(prompt="ünïcode \x00 prompt"))
    async with reading(log.own()) as owner:
        await until(lambda: bool(owner.of("task")), "the task is read")
        record = owner.of("task")[0]
    await log.dead_letter(record, "the prompt is odd")
    [(key, value, headers)] = logs.dead_letters()
    assert (key, value) == (record.key, record.value)
    assert headers["kafka_dlt-exception-message"] == b"the prompt is odd"
    assert record.headers.items() <= headers.items()


async def test_a_twin_whose_broker_is_down_says_the_queue_is_unavailable():
    broker = MemoryBroker(Settings().lane_names, SystemClock())
    broker.down = True
    await refuses_all(MemoryLog(broker), Logs(broker.lanes, lambda: MemoryLog(broker), list))


async def test_kafka_that_is_away_is_said_within_the_timeout():
    settings = kafka_settings(f"127.0.0.1:{free_ports(1)[0]}", kafka_timeout=0.5)
    log = KafkaLog(settings)
    began = time.monotonic()
    await refuses_all(log, Logs(settings.lane_names, lambda: log, list))
    assert time.monotonic() - began < 6, "four refusals of half a second took too long"
    await log.close()


async def refuses_all(log: TaskLog, logs: Logs) -> None:
    event = CancelRequested(task_id="0" * 32, at=1.0)
    for refused in (
        lambda: log.append_task(logs.task()),
        lambda: log.append_event(event, 0),
        lambda: log.append_card(card()),
        log.ends,
    ):
        with pytest.raises(QueueUnavailable) as caught:
            await refused()
        assert caught.value.retry_after
    log.emit(event, 0)


def test_topics_of_different_partition_counts_are_refused_with_a_sentence(kafka):
    settings = kafka_settings(kafka.bootstrap)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for future in admin.create_topics([NewTopic(settings.lane_names[1], num_partitions=2)]).values():
        future.result()
    with pytest.raises(SystemExit, match=r"batch_task has 2.*\n?.*KAFKA_TOPIC_PREFIX"):
        create_topics(settings)


def test_making_the_topics_twice_is_fine(kafka):
    settings = kafka_settings(kafka.bootstrap)
    create_topics(settings)
    create_topics(settings)
