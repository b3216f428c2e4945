"""What passes from one owner to the next, on the twin and on the real broker alike."""

import pytest

from adapters.clock import SystemClock
from adapters.memory_log import MemoryBroker, MemoryLog
from config.settings import Settings
from tasks.errors import QueueUnavailable
from tasks.events import CancelRequested, Progress, parse_event
from tests.adapters.reading import reading
from tests.adapters.test_log import PARTITIONS, Bench, bench
from tests.support.world import card

__all__ = ["bench"]
ALL = set(range(PARTITIONS))


async def test_the_next_owner_knows_how_far_to_read_to_have_every_event_of_the_one_before(bench: Bench) -> None:
    first, second = bench.log(), bench.log()
    events = [Progress(task_id="0" * 32, at=1.0, attempt=1, owner="a", step=step, steps=50) for step in range(50)]
    async with reading(first.own()) as before:
        await before.until(lambda: before.owned == ALL)
        for event in events:
            first.emit(event, 2)
        await first.close()
    async with reading(second.own()) as after:
        await after.until(lambda: after.owned == ALL and len(after.of_kind("event")) == 50)
    assert after.events_until[2] == 50
    assert [parse_event(record.value) for record in after.of_kind("event")] == events


async def test_a_commit_for_a_partition_of_another_owner_does_not_count(bench: Bench) -> None:
    first, second, third = bench.log(), bench.log(), bench.log()
    tasks = [bench.task(f"model-{number}") for number in range(8)]
    places = [await first.append_task(task) for task in tasks]
    async with reading(first.own()) as one:
        await one.until(lambda: one.owned == ALL)
        async with reading(second.own()) as two:
            await two.until(lambda: len(two.owned) == PARTITIONS // 2)
            await one.until(lambda: one.owned == ALL - two.owned)
            for place in places:
                stranger = second if place.partition in one.owned else first
                stranger.commit(place.topic, place.partition, place.offset + 1)
            await second.close()
        await one.until(lambda: one.owned == ALL)
        await first.close()
    async with reading(third.own()) as three:
        await three.until(lambda: len(three.of_kind("task")) == len(tasks))
    assert {record.place for record in three.of_kind("task")} == set(places)


async def test_a_card_published_later_reaches_followers_and_owners(bench: Bench) -> None:
    log = bench.log()
    async with reading(log.follow({})) as follower, reading(log.own()) as owner:
        await owner.until(lambda: owner.owned == ALL)
        await log.append_card(card("late"))
        for reader in (follower, owner):
            await reader.until(lambda: [one.key for one in reader.of_kind("card")] == ["late"])  # noqa: B023


async def test_a_twin_whose_broker_is_down_says_the_queue_is_unavailable() -> None:
    broker = MemoryBroker(Settings().lane_names, SystemClock())
    broker.down = True
    log = MemoryLog(broker)
    event = CancelRequested(task_id="0" * 32, at=1.0)
    for refused in (lambda: log.append_event(event, 0), lambda: log.append_card(card()), log.ends):
        with pytest.raises(QueueUnavailable):
            await refused()
    log.emit(event, 0)
    assert not broker.topics["events"][0]
