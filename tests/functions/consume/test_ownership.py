"""What the protocol's model (tests/proofs/protocol) found to matter, tried on the dispatcher itself: events that are read
or written late, partitions that move. On twins, with a clock the tests turn."""

import asyncio
from collections.abc import Callable

from adapters.clock import settle
from adapters.memory_log import EVENTS
from tasks.errors import RunnerLost
from tasks.events import Event, Outcome, Progress, Started, event_key
from tasks.lease import HEARTBEAT_SECONDS, LEASE_SECONDS
from tasks.task import Task
from tests.support.world import Running, World, world

LONG = {"steps": 100}


def write(w: World, event: Event, task: Task) -> None:
    """An event of another owner reaches the log; no consumer gets time to read it yet."""
    partition = w.broker.partition_of(task.model_name)
    w.broker.append(EVENTS, partition, event_key(event), event.model_dump_json().encode(), {})


def started(task: Task, attempt: int) -> Started:
    return Started(task_id=task.task_id, at=0.0, attempt=attempt, owner="other")


def progress(task: Task, attempt: int) -> Progress:
    return Progress(task_id=task.task_id, at=0.0, attempt=attempt, owner="other", step=1, steps=9)


def lag(running: Running) -> Callable[[], None]:
    """From now on it reads no events, until the returned function is called."""
    (member,) = running.log.members
    member.withheld = frozenset({EVENTS})

    def reads() -> None:
        member.withheld = frozenset()
        running.log.broker.wake()

    return reads


async def test_a_release_that_is_read_before_it_is_acknowledged_does_not_lose_the_task():
    async with world() as w:
        running = await w.start()
        append = running.log.append_event

        async def acknowledged_late(event, partition):
            place = await append(event, partition)
            await settle()
            return place

        running.log.append_event = acknowledged_late
        task = await w.submit(image_params=LONG)
        write(w, started(task, 2), task)  # The other owner took it over and died.
        await settle()
        assert w.runner.dropped == [task.task_id]
        await w.clock.advance(LEASE_SECONDS + 1)
        assert w.started(task) == [1, 2, 3]


async def test_an_owner_that_lags_does_not_start_again_before_it_read_its_own_release():
    async with world() as w:
        running = await w.start()
        reads = lag(running)
        w.runner.fail_next.append(RunnerLost())
        task = await w.submit(image_params=LONG)
        await w.clock.advance(8)
        assert w.started(task) == [1]
        reads()
        await w.clock.advance(8)
        assert w.started(task) == [1, 2]


async def test_an_attempt_whose_partition_is_lost_while_it_reads_the_store_does_not_begin():
    async with world() as w:
        task = await w.submit()
        write(w, started(task, 1), task)
        running = await w.start()
        known, asked = asyncio.Event(), asyncio.Event()

        async def slow(task_id: str) -> Outcome | None:
            asked.set()
            await known.wait()
            return None

        w.store.get_outcome = slow
        await w.clock.advance(LEASE_SECONDS + 1)
        assert asked.is_set()
        running.log.members[0].reassign(frozenset())
        w.broker.wake()
        await settle()
        known.set()
        await w.clock.advance(5)
        assert w.started(task) == [1]
        assert not w.runner.ran


async def orphan(w: World) -> Task:
    """A task that runs at the first owner after its partition was given to a second one: an orphan."""
    first = await w.start()
    task = await w.submit(image_params=LONG)
    second = await w.start()
    partition = w.broker.partition_of(task.model_name)
    first.log.members[0].reassign(first.log.members[0].assigned - {partition})
    second.log.members[0].reassign(second.log.members[0].assigned | {partition})
    w.broker.wake()
    await w.clock.advance(1)
    assert w.started(task) == [1]
    assert task.task_id in first.consumer.attempts
    return task


async def test_a_cancel_stops_an_orphan():
    async with world() as w:
        task = await orphan(w)
        await w.cancel(task)
        await w.clock.advance(0.2)
        assert w.runner.dropped == [task.task_id]
        assert w.status(task) == "canceled"
        assert w.started(task) == [1]
        assert w.watermark_at_end()


async def test_a_takeover_stops_an_orphan_and_frees_its_runner():
    async with world() as w:
        task = await orphan(w)
        write(w, started(task, 2), task)
        await w.clock.advance(0.2)
        assert w.runner.dropped == [task.task_id]
        await w.clock.advance(LEASE_SECONDS + 1)
        assert w.started(task) == [1, 2, 3]


async def test_an_unreadable_event_does_not_keep_a_cancel_from_an_orphan():
    async with world() as w:
        task = await orphan(w)
        w.broker.append(EVENTS, w.broker.partition_of(task.model_name), "?", b"{", {})
        await w.cancel(task)
        await w.clock.advance(0.2)
        assert w.status(task) == "canceled"


async def test_a_frozen_owner_reads_the_log_before_it_takes_a_task_whose_lease_expired():
    async with world() as w:
        task = await w.submit()
        write(w, started(task, 1), task)
        running = await w.start()
        await w.clock.advance(1)
        reads = lag(running)
        w.clock.stall(2 * LEASE_SECONDS)  # The other owner wrote all the time.
        write(w, progress(task, 1), task)
        await w.clock.advance(0)
        reads()
        for _ in range(5):
            write(w, progress(task, 1), task)
            await w.clock.advance(HEARTBEAT_SECONDS)
        assert w.started(task) == [1]
        await w.clock.advance(LEASE_SECONDS)
        assert w.started(task) == [1, 2]


async def test_a_task_read_after_its_start_deadline_expires_even_if_a_runner_is_free():
    async with world() as w:
        task = await w.submit(start_within=1.0)
        await w.clock.advance(5)
        await w.start()
        assert w.status(task) == "expired"
        assert not w.runner.ran


async def test_a_running_task_that_ended_elsewhere_frees_the_runner():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        ended = await w.store.put_outcome(Outcome(task_id=task.task_id, at=0.0, status="canceled", tries=1, task=task))
        write(w, ended, task)
        await w.clock.advance(1)
        assert not w.runner.running
        assert w.status(task) == "canceled"
        assert w.watermark_at_end()


async def test_a_task_whose_started_event_was_lost_counts_as_running_from_its_next_event():
    async with world() as w:
        task = await w.submit()
        write(w, progress(task, 1), task)
        await w.start()
        await w.clock.advance(LEASE_SECONDS - 2)
        assert w.started(task) == []
        await w.clock.advance(3)
        assert w.started(task) == [2]


async def test_a_delay_that_ends_does_not_take_a_task_that_runs_elsewhere_by_now():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        w.runner.fail_next.append(RunnerLost())
        await w.clock.advance(0.2)
        write(w, started(task, 2), task)
        await settle()
        await w.clock.advance(5)
        assert w.started(task) == [1, 2]
