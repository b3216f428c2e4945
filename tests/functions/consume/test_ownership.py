"""What the protocol's model (tests/proofs/protocol) found to matter, on the dispatcher itself: late reading, late words, owners
that go and come, on twins with a clock the tests turn."""

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
    """Another owner's word reaches the log; nobody is given time to read it."""
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


async def test_a_release_that_is_read_before_it_is_acknowledged_leaves_the_task_to_somebody():
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


async def test_an_owner_that_lags_behind_the_log_does_not_start_again_before_it_has_read_its_own_release():
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


async def test_an_attempt_whose_partition_went_while_it_looked_for_an_outcome_does_not_begin():
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


async def moved_on(w: World) -> Task:
    """A task that runs at the first owner, whose partition went to a second one meanwhile."""
    first = await w.start()
    task = await w.submit(image_params=LONG)
    second = await w.start()
    partition = w.broker.partition_of(task.model_name)
    first.log.members[0].reassign(first.log.members[0].assigned - {partition})
    second.log.members[0].reassign(second.log.members[0].assigned | {partition})
    w.broker.wake()
    await w.clock.advance(1)
    assert w.started(task) == [1]
    assert task.task_id in first.consumer.dispatcher._attempts
    return task


async def test_a_cancel_reaches_what_runs_at_an_owner_whose_partition_went_to_another():
    async with world() as w:
        task = await moved_on(w)
        await w.cancel(task)
        await w.clock.advance(0.2)
        assert w.runner.dropped == [task.task_id]
        assert w.status(task) == "canceled"
        assert w.started(task) == [1]
        assert w.watermark_at_end()


async def test_what_was_taken_over_by_another_frees_the_runner_of_an_owner_whose_partition_went():
    async with world() as w:
        task = await moved_on(w)
        write(w, started(task, 2), task)
        await w.clock.advance(0.2)
        assert w.runner.dropped == [task.task_id]
        await w.clock.advance(LEASE_SECONDS + 1)
        assert w.started(task) == [1, 2, 3]


async def test_what_cannot_be_read_does_not_keep_a_cancel_from_what_runs_where_the_partition_went():
    async with world() as w:
        task = await moved_on(w)
        w.broker.append(EVENTS, w.broker.partition_of(task.model_name), "?", b"{", {})
        await w.cancel(task)
        await w.clock.advance(0.2)
        assert w.status(task) == "canceled"


async def test_an_owner_that_was_stopped_reads_what_was_written_before_it_takes_a_task_whose_lease_seems_to_have_lapsed():
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


async def test_a_task_that_is_read_after_its_time_to_start_expires_even_if_a_runner_is_free():
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
        ended = await w.store.put_outcome(
            Outcome(task_id=task.task_id, at=0.0, status="canceled", attempt=1, task=task)
        )
        write(w, ended, task)
        await w.clock.advance(1)
        assert not w.runner.running
        assert w.status(task) == "canceled"
        assert w.watermark_at_end()


async def test_a_task_whose_start_was_lost_is_known_to_run_by_its_next_sign_of_life():
    async with world() as w:
        task = await w.submit()
        write(w, progress(task, 1), task)
        await w.start()
        await w.clock.advance(LEASE_SECONDS - 2)
        assert w.started(task) == []
        await w.clock.advance(3)
        assert w.started(task) == [2]


async def test_a_delay_that_is_over_does_not_take_a_task_that_runs_elsewhere_by_now():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        w.runner.fail_next.append(RunnerLost())
        await w.clock.advance(0.2)
        write(w, started(task, 2), task)
        await settle()
        await w.clock.advance(5)
        assert w.started(task) == [1, 2]
