"""What every log promises its writers and its readers without a group, on the twin and on the real broker alike."""

import asyncio
import time
import uuid

from tasks.events import CancelRequested, Started, parse_event
from tasks.log import Place, Record
from tasks.task import Task
from tests.adapters.conftest import LogBench
from tests.adapters.reading import reading
from tests.support.kafka import PARTITIONS
from tests.support.world import card


async def test_a_task_is_read_where_it_was_appended_and_as_it_was_written(bench: LogBench) -> None:
    log = bench.log()
    task = bench.task()
    place = await log.append_task(task)
    async with reading(log.follow({})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    (record,) = follower.of_kind("task")
    assert (record.place, record.place.topic) == (place, task.topic)
    assert Task.model_validate_json(record.value) == task


async def test_tasks_of_one_model_have_one_partition_number_on_every_lane(bench: LogBench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task(lane=lane)) for lane in (0, 1, 0, 1)]
    assert len({place.partition for place in places}) == 1
    assert [place.offset for place in places] == [0, 0, 1, 1]


async def test_events_keep_their_partition_and_order_whether_awaited_or_emitted(bench: LogBench) -> None:
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


async def test_a_follower_starts_at_the_offsets_it_is_given(bench: LogBench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(3)]
    key = (places[0].topic, places[0].partition)
    async with reading(log.follow({key: 2})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    assert [record.place for record in follower.of_kind("task")] == places[2:]


async def test_a_fresh_follower_starts_at_the_consumers_commits(bench: LogBench) -> None:
    log = bench.log()
    places = [await log.append_task(bench.task()) for _ in range(3)]
    owner = bench.owner()
    async with reading(owner.deliveries()) as owned:
        await owned.until(lambda: len(owned.of_kind("task")) == 3)
        owner.commit(places[2].topic, places[2].partition, 2)
        await owner.close()
    async with reading(log.follow({})) as follower:
        await follower.until(lambda: bool(follower.of_kind("task")))
    assert follower.of_kind("task")[0].place == places[2]


async def test_events_are_read_from_given_offsets_though_another_owns_them(bench: LogBench) -> None:
    log = bench.log()
    ids = [uuid.uuid4().hex for _ in range(4)]
    async with reading(bench.owner().deliveries()) as owned:
        await owned.until(lambda: owned.assigned == set(range(PARTITIONS)))
        for task_id in ids[:2]:
            await log.append_event(CancelRequested(task_id=task_id, at=1.0), 1)
        await log.append_event(CancelRequested(task_id=ids[2], at=1.0), 2)
        async with reading(log.read_events({1: 1})) as reader:
            await reader.until(lambda: bool(reader.of_kind("event")))
            await log.append_event(CancelRequested(task_id=ids[3], at=1.0), 1)
            await reader.until(lambda: len(reader.of_kind("event")) == 2)
        events = [parse_event(record.value) for record in reader.records]
        assert [event.task_id for event in events if event] == [ids[1], ids[3]]
        assert owned.assigned == set(range(PARTITIONS))


async def test_a_card_published_later_reaches_followers_and_owners(bench: LogBench) -> None:
    log = bench.log()
    async with reading(log.follow({})) as follower, reading(bench.owner().deliveries()) as owner:
        await owner.until(lambda: owner.assigned == set(range(PARTITIONS)))
        await log.append_card(card("late"))
        for reader in (follower, owner):
            await reader.until(lambda: [record.key for record in reader.of_kind("card")] == ["late"])  # noqa: B023 - awaited before the next


async def test_the_ends_are_those_of_the_log_at_this_moment(bench: LogBench) -> None:
    log = bench.log()
    place = await log.append_task(bench.task())
    ends = await log.ends()
    assert ends[place.topic, place.partition] == 1
    assert len(ends) == PARTITIONS * (1 + len(bench.settings.lane_names))


async def test_a_dead_letter_holds_the_whole_record_and_the_reason(bench: LogBench) -> None:
    log = bench.log()
    place = Place(bench.settings.lane_names[0], 1, 7)
    await log.dead_letter(Record("task", place, 1.0, "k", b"\xff{", {"trace": b"x"}), "no JSON")
    ((value, headers),) = bench.dead_letters()
    assert value == b"\xff{"
    assert headers["trace"] == b"x"
    assert headers["kafka_dlt-exception-message"] == b"no JSON"


async def test_the_events_since_a_time_begin_at_the_first_one_that_was_appended_then(bench: LogBench) -> None:
    log = bench.log()
    for at in (1.0, 2.0):
        await log.append_event(CancelRequested(task_id=bench.task().task_id, at=at), 1)
    async with reading(log.follow({(log.events_topic, 1): 0})) as follower:
        await follower.until(lambda: len(follower.of_kind("event")) == 2)
    second = follower.of_kind("event")[1].timestamp
    await _later_than(second)
    await log.append_event(CancelRequested(task_id=bench.task().task_id, at=3.0), 1)
    assert await log.events_since({1: 0.0, 2: 0.0}) == {1: 0, 2: 0}
    assert await log.events_since({1: second + 0.002}) == {1: 2}
    assert await log.events_since({1: time.time() + 60}) == {1: 3}


async def _later_than(moment: float) -> None:
    """Until the clock is some milliseconds past the moment: brokers note the time of a record in milliseconds."""
    while time.time() < moment + 0.005:
        await asyncio.sleep(0.001)
