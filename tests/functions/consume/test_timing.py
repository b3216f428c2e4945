"""What is said too late, twice or never: lost events, slow acknowledgements, owners that come and go. On twins."""

import asyncio

from tasks.errors import OutOfMemory, QueueUnavailable
from tasks.events import Event, Released, Started
from tasks.log import Partition, Place
from tests.support.world import Running, World, world

LONG = {"steps": 100}


def lose_started(running: Running) -> None:
    """From now on nothing this consumer says about a start reaches the log."""
    emit = running.log.emit

    def lossy(event: Event, partition: Partition) -> None:
        if not isinstance(event, Started):
            emit(event, partition)

    running.log.emit = lossy  # type: ignore[method-assign]


def acknowledge_late(running: Running, w: World, seconds: float) -> None:
    """The first append of a Released event is written at once, and its writer hears of it only as of a failure."""
    append, pending = running.log.append_event, [seconds]

    async def slow(event: Event, partition: Partition) -> Place:
        place = await append(event, partition)
        if isinstance(event, Released) and pending:
            await w.clock.sleep(pending.pop())
            raise QueueUnavailable
        return place

    running.log.append_event = slow  # type: ignore[method-assign]


async def test_a_retry_happens_though_the_log_is_slow_to_acknowledge_that_it_was_queued_again() -> None:
    async with world() as w:
        acknowledge_late(await w.start(), w, seconds=4)
        w.runner.fail_next = [OutOfMemory()]
        task = await w.submit()
        await w.clock.advance(20)
        assert (w.status(task), w.started(task)) == ("completed", [1, 2])


async def test_a_retry_happens_though_nobody_ever_heard_of_the_first_attempt() -> None:
    async with world() as w:
        lose_started(await w.start())
        w.runner.fail_next = [OutOfMemory()]
        task = await w.submit()
        await w.clock.advance(20)
        assert (w.status(task), len(w.runner.ran)) == ("completed", 2)


async def test_a_task_whose_partition_leaves_and_returns_is_not_started_beside_itself() -> None:
    async with world() as w:
        running = await w.start()
        lose_started(running)
        task = await w.submit(image_params=LONG)
        everything = running.log.members[0].assigned
        running.log.members[0].reassign(frozenset())
        w.broker.wake()
        await w.clock.advance(1)
        running.log.members[0].reassign(everything)
        w.broker.wake()
        await w.clock.advance(20)
        assert (w.status(task), len(w.runner.ran)) == ("completed", 1)
        assert w.watermark_at_end()


async def test_an_owner_who_lost_a_task_neither_fails_it_nor_blames_its_runner() -> None:
    async with world() as w:
        running = await w.start()
        w.runner.fail_next = [OutOfMemory(), OutOfMemory()]
        task = await w.submit(image_params=LONG)
        await w.clock.advance(8)
        assert w.started(task) == [1, 2, 3]
        taken = Started(task_id=task.task_id, at=w.clock.now(), attempt=4, owner="another")
        await w.client.append_event(taken, w.broker.partition_of(task.model_name))
        await w.clock.advance(0.1)
        assert w.runner.dropped == [task.task_id]
        assert w.outcome(task) is None
        assert running.consumer.pool.has_room("sd-mini")


async def test_a_runner_that_dies_costs_the_queued_tasks_nothing() -> None:
    async with world() as w:
        await w.start()
        for _ in range(2):
            await w.submit(image_params=LONG)
        queued = [await w.submit() for _ in range(6)]
        w.runner.away = True
        await w.clock.advance(60)
        assert [w.started(task) for task in queued] == [[]] * 6
        w.runner.away = False
        await w.clock.advance(60)
        assert [w.status(task) for task in queued] == ["completed"] * 6


async def test_a_consumer_told_to_stop_ends_though_the_log_is_away() -> None:
    async with world() as w:
        running = await w.start()
        await w.submit(image_params=LONG)
        w.broker.down = True
        stopping = asyncio.ensure_future(running.stop(grace=1))
        await w.clock.advance(2)
        assert stopping.done()
        w.broker.down = False


async def test_a_cancel_of_a_task_waiting_for_its_next_try_ends_it() -> None:
    async with world() as w:
        await w.start()
        w.runner.fail_next = [OutOfMemory()]
        task = await w.submit()
        await w.clock.advance(0.5)
        await w.cancel(task)
        assert w.status(task) == "canceled"
        await w.clock.advance(20)
        assert len(w.runner.ran) == 1


async def test_the_store_away_for_a_minute_costs_no_lease() -> None:
    async with world() as w:
        await w.start()
        task = await w.submit()
        w.store.down = True
        await w.clock.advance(15)
        await w.start()
        await w.clock.advance(45)
        w.store.down = False
        await w.clock.advance(10)
        assert (w.status(task), w.started(task)) == ("completed", [1])
