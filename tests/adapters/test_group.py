"""What a consumer group promises its members, on the twin and on the real broker alike."""

import uuid

import pytest

from tasks.events import CancelRequested
from tasks.log import Record
from tasks.ports import TaskLog
from tests.adapters.conftest import LogBench
from tests.adapters.reading import reading
from tests.support.kafka import PARTITIONS
from tests.support.world import card

ALL = set(range(PARTITIONS))


def a_group() -> str:
    """The name of a new group, such as that of a function that sends events to a webhook."""
    return f"group-{uuid.uuid4().hex[:8]}"


async def cancels(log: TaskLog, partitions: list[int]) -> list[str]:
    """Append an event to each of these partitions; the ids of their tasks."""
    ids = [uuid.uuid4().hex for _ in partitions]
    for task_id, partition in zip(ids, partitions, strict=True):
        await log.append_event(CancelRequested(task_id=task_id, at=1.0), partition)
    return ids


def ids_of(records: list[Record]) -> list[str]:
    """The task ids of these cancel events."""
    return [record.key.removesuffix("/cancel") for record in records]


async def test_a_new_group_reads_a_topic_from_the_beginning(bench: LogBench) -> None:
    log = bench.log()
    ids = await cancels(log, [0, 1, 2, 3, 3])
    member = log.join(a_group(), [log.events_topic])
    async with reading(member.deliveries()) as reader:
        await reader.until(lambda: len(reader.records) == len(ids))
        later = await cancels(log, [2])
        await reader.until(lambda: len(reader.records) == len(ids) + 1)
    assert set(ids_of(reader.records)) == {*ids, *later}


async def test_a_group_gets_every_event_whatever_other_groups_read_or_commit(bench: LogBench) -> None:
    log = bench.log()
    ids = await cancels(log, [1, 1, 1])
    first, second = log.join(a_group(), [log.events_topic]), log.join(a_group(), [log.events_topic])
    async with reading(bench.owner().deliveries()) as owner, reading(first.deliveries()) as first_reader:
        await owner.until(lambda: len(owner.of_kind("event")) == 3)
        await first_reader.until(lambda: len(first_reader.records) == 3)
        first.commit(log.events_topic, 1, 3)
        await first.close()
        async with reading(second.deliveries()) as other:
            await other.until(lambda: len(other.records) == 3)
        assert ids_of(first_reader.records) == ids_of(other.records) == ids
        assert owner.assigned == ALL


async def test_the_next_member_starts_at_the_commit_of_its_own_group(bench: LogBench) -> None:
    log, group = bench.log(), a_group()
    ids = await cancels(log, [2, 2, 2])
    before = log.join(group, [log.events_topic])
    async with reading(before.deliveries()) as first_reader:
        await first_reader.until(lambda: len(first_reader.records) == 3)
        before.commit(log.events_topic, 2, 1)
        await before.close()
    async with reading(bench.log().join(group, [log.events_topic]).deliveries()) as second_reader:
        await second_reader.until(lambda: len(second_reader.records) == 2)
    assert ids_of(second_reader.records) == ids[1:], "what was not committed is delivered again"


async def test_two_members_share_the_partitions_of_every_topic(bench: LogBench) -> None:
    first, second, group = bench.log(), bench.log(), a_group()
    topics = [*bench.settings.lane_names]
    async with reading(first.join(group, topics).deliveries()) as first_reader:
        await first_reader.until(lambda: first_reader.assigned == ALL)
        async with reading(second.join(group, topics).deliveries()) as second_reader:
            await second_reader.until(lambda: len(second_reader.assigned) == PARTITIONS // 2)
            await first_reader.until(lambda: first_reader.assigned == ALL - second_reader.assigned)
            tasks = [bench.task(f"model-{number}", number % 2) for number in range(12)]
            places = [await first.append_task(task) for task in tasks]
            await first_reader.until(lambda: len(first_reader.records) + len(second_reader.records) == len(tasks))
            assert {record.place for record in first_reader.records} == {
                p for p in places if p.partition in first_reader.assigned
            }
            assert {record.place for record in second_reader.records} == {
                p for p in places if p.partition in second_reader.assigned
            }
        await first_reader.until(lambda: first_reader.assigned == ALL)


async def test_a_member_that_closes_gives_its_partitions_to_the_others(bench: LogBench) -> None:
    first, second, group = bench.log(), bench.log(), a_group()
    leaving = first.join(group, [first.events_topic])
    async with reading(leaving.deliveries()) as first_reader:
        await first_reader.until(lambda: first_reader.assigned == ALL)
        async with reading(second.join(group, [first.events_topic]).deliveries()) as second_reader:
            await second_reader.until(lambda: len(second_reader.assigned) == PARTITIONS // 2)
            await leaving.close()
            await second_reader.until(lambda: second_reader.assigned == ALL)


async def test_a_plain_member_gets_its_topics_alone_and_has_nothing_to_read_first(bench: LogBench) -> None:
    log = bench.log()
    await log.append_card(card())
    await log.append_task(bench.task())
    await cancels(log, [1])
    async with reading(log.join(a_group(), [log.events_topic]).deliveries()) as reader:
        await reader.until(lambda: reader.assigned == ALL and bool(reader.records))
    assert {record.kind for record in reader.records} == {"event"}
    assert set(reader.events_until.values()) == {0}


async def test_a_group_on_topics_the_log_does_not_have_is_refused(bench: LogBench) -> None:
    log = bench.log()
    with pytest.raises(ValueError, match="nonsense"):
        log.join(a_group(), ["nonsense"])
    with pytest.raises(ValueError, match="not among the topics"):
        log.join(a_group(), [bench.settings.lane_names[0]], replayed=log.events_topic)
