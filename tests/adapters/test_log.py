"""What every TaskLog promises, on the twin and on the real broker alike."""

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
from tasks.events import CancelRequested, Started, parse_event
from tasks.log import Assigned, Place, Record
from tasks.ports import TaskLog
from tasks.task import GenerateRequest, Task
from tests.adapters.reading import DEADLINE, reading
from tests.support.world import card

PARTITIONS = 4


@dataclass
class Bench:
    """A broker of its own, and as many logs on it as a test asks for."""

    settings: Settings
    connect: Callable[[], TaskLog]
    dead_letters: Callable[[], list[tuple[bytes, dict[str, bytes]]]]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def log(self) -> TaskLog:
        """One more process's log."""
        made = self.connect()
        self.stack.push_async_callback(made.close)
        return made

    def task(self, model: str = "sd-mini", lane: int = 0) -> Task:
        """A new task."""
        return accept(
            GenerateRequest(
                model_name=model,
                prompt="a red circle",
                topic=self.settings.lane_names[lane],
            ),
            task_id=uuid.uuid4().hex,
            cards={model: card(model)},
            lanes=self.settings.lane_names,
            created_at=SystemClock().now(),
        )


@pytest.fixture(params=["memory", "kafka"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Each case runs on both."""
    if request.param == "memory":
        settings = Settings(kafka_partitions=PARTITIONS)
        broker = MemoryBroker(settings.lane_names, SystemClock(), PARTITIONS)
        made = Bench(
            settings,
            lambda: MemoryLog(broker),
            lambda: [(r.value, dict(r.headers)) for r in broker.topics[DEAD_LETTERS][0]],
        )
    else:
        settings = kafka_settings(request.getfixturevalue("kafka").bootstrap)
        create_topics(settings)
        await _led(settings)
        made = Bench(settings, lambda: KafkaLog(settings), lambda: _dead_letters(settings))
    async with made.stack:
        yield made


async def _led(settings: Settings) -> None:
    """Wait until every partition has its leader: a new topic is known a moment before that."""
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
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap_servers, "group.id": "nobody"})
    consumer.assign([TopicPartition(settings.topic("dead_letter"), 0, 0)])
    message = consumer.poll(10)
    consumer.close()
    assert message is not None and message.error() is None
    return [
        (
            message.value() or b"",
            dict(message.headers() or []),
        )
    ]  # type: ignore[misc]


async def test_a_task_is_read_where_it_was_appended_and_as_it_was_written(
    bench: Bench,
) -> None:
    log = bench.log()
    task = bench.task()
    place = await log.append_task(task)
    async with reading(log.follow({})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    (record,) = follower.of_kind("task")
    assert (record.place, record.place.topic) == (place, task.topic)
    assert Task.model_validate_json(record.value) == task


async def test_tasks_of_one_model_lie_in_one_partition_number_on_every_lane(
    bench: Bench,
) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task(lane=lane)) for lane in (0, 1, 0, 1)]
    assert len({place.partition for place in places}) == 1
    assert [place.offset for place in places] == [0, 0, 1, 1]


async def test_events_go_to_the_partition_told_in_the_order_said_waited_for_or_not(
    bench: Bench,
) -> None:
    log = bench.log()
    task_id = bench.task().task_id
    first = await log.append_event(CancelRequested(task_id=task_id, at=1.0), 2)
    log.emit(Started(task_id=task_id, at=2.0, attempt=1, owner="a"), 2)
    await log.append_event(CancelRequested(task_id=task_id, at=3.0), 2)
    assert first == Place(log.events_topic, 2, 0)
    async with reading(log.follow({(log.events_topic, 2): 0})) as follower:
        await follower.until(lambda: len(follower.of_kind("event")) == 3)
    events = [parse_event(record.value) for record in follower.of_kind("event")]
    assert [event.at for event in events if event] == [1.0, 2.0, 3.0]


async def test_a_follower_goes_on_from_the_offsets_it_is_given(bench: Bench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(3)]
    key = (places[0].topic, places[0].partition)
    async with reading(log.follow({key: 2})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    assert [record.place for record in follower.of_kind("task")] == places[2:]


async def test_a_listener_hears_the_events_of_its_partitions_alone_from_its_offsets_on_whoever_owns_them(
    bench: Bench,
) -> None:
    log, owner = bench.log(), bench.log()
    ids = [uuid.uuid4().hex for _ in range(4)]
    async with reading(owner.own()) as owned:
        await owned.until(lambda: owned.owned == set(range(PARTITIONS)))
        for task_id in ids[:2]:
            await log.append_event(CancelRequested(task_id=task_id, at=1.0), 1)
        await log.append_event(CancelRequested(task_id=ids[2], at=1.0), 2)
        async with reading(log.listen({1: 1})) as listener:
            await listener.until(lambda: bool(listener.of_kind("event")))
            await log.append_event(CancelRequested(task_id=ids[3], at=1.0), 1)
            await listener.until(lambda: len(listener.of_kind("event")) == 2)
        heard = [parse_event(record.value) for record in listener.records]
        assert [event.task_id for event in heard if event] == [ids[1], ids[3]]
        assert owned.owned == set(range(PARTITIONS))


async def test_a_fresh_follower_starts_where_the_group_stands(bench: Bench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(3)]
    owner = bench.log()
    async with reading(owner.own()) as owned:
        await owned.until(lambda: len(owned.of_kind("task")) == 3)
        owner.commit(places[2].topic, places[2].partition, 2)
        await owner.close()
    async with reading(log.follow({})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    assert follower.of_kind("task")[0].place == places[2]


async def test_the_ends_are_those_of_the_log_just_now(bench: Bench) -> None:
    log = bench.log()
    place = await log.append_task(bench.task())
    ends = await log.ends()
    assert ends[place.topic, place.partition] == 1
    assert len(ends) == PARTITIONS * (1 + len(bench.settings.lane_names))


async def test_a_dead_letter_holds_the_whole_record_and_the_reason(
    bench: Bench,
) -> None:
    log = bench.log()
    place = Place(bench.settings.lane_names[0], 1, 7)
    await log.dead_letter(
        Record("task", place, 1.0, "k", b"\xff{", {"trace": b"x"}),
        "no JSON",
    )
    ((value, headers),) = bench.dead_letters()
    assert value == b"\xff{"
    assert headers["trace"] == b"x"
    assert headers["kafka_dlt-exception-message"] == b"no JSON"


async def test_an_owner_learns_the_cards_first_then_its_share_then_the_records(
    bench: Bench,
) -> None:
    log = bench.log()
    await log.append_card(card())
    place = await log.append_task(bench.task())
    await log.append_event(CancelRequested(task_id=uuid.uuid4().hex, at=1.0), place.partition)
    async with reading(bench.log().own()) as owner:
        await owner.until(lambda: bool(owner.of_kind("task") and owner.of_kind("event")))
    assigned = next(index for index, one in enumerate(owner.seen) if isinstance(one, Assigned))
    assert owner.records[0].kind == "card" and assigned > 0
    assert owner.owned == set(range(PARTITIONS))
    assert owner.events_until[place.partition] == 1


async def test_two_owners_share_the_partitions_and_one_that_leaves_gives_them_back(
    bench: Bench,
) -> None:
    first, second = bench.log(), bench.log()
    everything = set(range(PARTITIONS))
    async with reading(first.own()) as one:
        await one.until(lambda: one.owned == everything)
        async with reading(second.own()) as two:
            await two.until(lambda: len(two.owned) == PARTITIONS // 2)
            await one.until(lambda: one.owned == everything - two.owned)
            await second.close()
        await one.until(lambda: one.owned == everything)


async def test_the_next_owner_starts_at_the_commit_which_never_goes_back(
    bench: Bench,
) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(4)]
    lane, partition = places[0].topic, places[0].partition
    first = bench.log()
    async with reading(first.own()) as one:
        await one.until(lambda: len(one.of_kind("task")) == 4)
        first.commit(lane, partition, 3)
        await first.close()
    second = bench.log()
    async with reading(second.own()) as two:
        await two.until(lambda: bool(two.of_kind("task")))
        second.commit(lane, partition, 1)
        await second.close()
    assert two.of_kind("task")[0].place == places[3]
    async with reading(bench.log().own()) as three:
        await three.until(lambda: bool(three.of_kind("task")))
    assert three.of_kind("task")[0].place == places[3]


async def test_what_a_dead_process_commits_does_not_arrive() -> None:
    settings = Settings()
    broker = MemoryBroker(settings.lane_names, SystemClock(), PARTITIONS)
    log = MemoryLog(broker)
    async with reading(log.own()) as owner:
        await owner.until(lambda: owner.owned == set(range(PARTITIONS)))
        log.mute()
        log.commit(settings.lane_names[0], 0, 5)
    assert not broker.committed
