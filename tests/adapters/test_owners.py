"""What the consumers' group promises the owners of partitions, on the twin and on the real broker alike."""

import uuid

import pytest

from adapters.clock import SystemClock
from adapters.memory_log import MemoryBroker, MemoryLog
from config.settings import Settings
from tasks.errors import QueueUnavailable
from tasks.events import CancelRequested, Progress, parse_event
from tasks.log import Assigned
from tests.adapters.conftest import LogBench
from tests.adapters.reading import reading
from tests.support.kafka import PARTITIONS
from tests.support.world import card

ALL = set(range(PARTITIONS))


async def test_an_owner_gets_cards_then_its_partitions_then_the_records(bench: LogBench) -> None:
    log = bench.log()
    await log.append_card(card())
    place = await log.append_task(bench.task())
    await log.append_event(CancelRequested(task_id=uuid.uuid4().hex, at=1.0), place.partition)
    async with reading(bench.owner().deliveries()) as owner:
        await owner.until(lambda: bool(owner.of_kind("task") and owner.of_kind("event")))
    assigned = next(n for n, delivery in enumerate(owner.deliveries) if isinstance(delivery, Assigned))
    assert owner.records[0].kind == "card" and assigned > 0
    assert owner.assigned == ALL
    assert owner.events_until[place.partition] == 1


async def test_two_owners_share_the_partitions_and_one_that_leaves_returns_them(bench: LogBench) -> None:
    first, second = bench.log(), bench.log()
    async with reading(bench.owner(first).deliveries()) as first_reader:
        await first_reader.until(lambda: first_reader.assigned == ALL)
        async with reading(bench.owner(second).deliveries()) as second_reader:
            await second_reader.until(lambda: len(second_reader.assigned) == PARTITIONS // 2)
            await first_reader.until(lambda: first_reader.assigned == ALL - second_reader.assigned)
            await second.close()
        await first_reader.until(lambda: first_reader.assigned == ALL)


async def test_the_next_owner_starts_at_the_commit_which_never_goes_back(bench: LogBench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(4)]
    lane, partition = places[0].topic, places[0].partition
    first = bench.owner()
    async with reading(first.deliveries()) as first_reader:
        await first_reader.until(lambda: len(first_reader.of_kind("task")) == 4)
        first.commit(lane, partition, 3)
        await first.close()
    second = bench.owner()
    async with reading(second.deliveries()) as second_reader:
        await second_reader.until(lambda: bool(second_reader.of_kind("task")))
        second.commit(lane, partition, 1)
        await second.close()
    assert second_reader.of_kind("task")[0].place == places[3]
    async with reading(bench.owner().deliveries()) as third_reader:
        await third_reader.until(lambda: bool(third_reader.of_kind("task")))
    assert third_reader.of_kind("task")[0].place == places[3]


async def test_the_next_owner_learns_up_to_where_it_must_read_all_earlier_events(bench: LogBench) -> None:
    first = bench.log()
    events = [Progress(task_id="0" * 32, at=1.0, attempt=1, owner="a", step=step, steps=50) for step in range(50)]
    async with reading(bench.owner(first).deliveries()) as before:
        await before.until(lambda: before.assigned == ALL)
        for event in events:
            first.emit(event, 2)
        await first.close()
    async with reading(bench.owner().deliveries()) as after:
        await after.until(lambda: after.assigned == ALL and len(after.of_kind("event")) == 50)
    assert after.events_until[2] == 50
    assert [parse_event(record.value) for record in after.of_kind("event")] == events


async def test_a_commit_for_a_partition_of_another_owner_does_not_count(bench: LogBench) -> None:
    log = bench.log()
    first, second, third = bench.owner(log), bench.owner(), bench.owner()
    tasks = [bench.task(f"model-{number}") for number in range(8)]
    places = [await log.append_task(task) for task in tasks]
    async with reading(first.deliveries()) as first_reader:
        await first_reader.until(lambda: first_reader.assigned == ALL)
        async with reading(second.deliveries()) as second_reader:
            await second_reader.until(lambda: len(second_reader.assigned) == PARTITIONS // 2)
            await first_reader.until(lambda: first_reader.assigned == ALL - second_reader.assigned)
            for place in places:
                stranger = second if place.partition in first_reader.assigned else first
                stranger.commit(place.topic, place.partition, place.offset + 1)
            await second.close()
        await first_reader.until(lambda: first_reader.assigned == ALL)
        await first.close()
    async with reading(third.deliveries()) as third_reader:
        await third_reader.until(lambda: len(third_reader.of_kind("task")) == len(tasks))
    assert {record.place for record in third_reader.of_kind("task")} == set(places)


async def test_a_commit_of_a_dead_process_does_not_arrive() -> None:
    settings = Settings()
    broker = MemoryBroker(settings.lane_names, SystemClock(), PARTITIONS)
    log = MemoryLog(broker)
    member = log.join(settings.kafka_group, (*settings.lane_names, log.events_topic), replayed=log.events_topic)
    async with reading(member.deliveries()) as owner:
        await owner.until(lambda: owner.assigned == ALL)
        log.mute()
        member.commit(settings.lane_names[0], 0, 5)
    assert not broker.committed


async def test_a_twin_whose_broker_is_down_says_the_queue_is_unavailable() -> None:
    broker = MemoryBroker(Settings().lane_names, SystemClock())
    broker.down = True
    log = MemoryLog(broker)
    event = CancelRequested(task_id="0" * 32, at=1.0)
    for call in (lambda: log.append_event(event, 0), lambda: log.append_card(card()), log.ends):
        with pytest.raises(QueueUnavailable):
            await call()
    log.emit(event, 0)
    assert not broker.topics["events"][0]
