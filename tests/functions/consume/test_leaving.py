"""A consumer or a runner shuts down: no task waits for a lease, and no attempt is wasted. On twins."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from adapters.clock import settle
from adapters.memory_runner import MemoryRunner
from tasks.events import Released
from tasks.retry import MAX_TRIES
from tasks.runner_api import Frame, Input, RunRequest
from tests.support.world import World, world

LONG = {"steps": 100}
FIRST_ACCEPTED, LATER_ACCEPTED = 2.0, 1.0
"""Seconds until the runner accepts a task: the first request for it waits longer than the second."""


def slow_to_accept(runner: MemoryRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = runner.run, set[str]()

    async def later(request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        first = request.task_id not in asked
        asked.add(request.task_id)
        await runner._clock.sleep(FIRST_ACCEPTED if first else LATER_ACCEPTED)
        async for frame in run(request, inputs):
            yield frame

    monkeypatch.setattr(runner, "run", later)


async def shutting_down(w: World, grace: float = 30.0) -> "asyncio.Task[None]":
    """The first consumer shuts down; its attempts go on for the grace."""
    ending = asyncio.ensure_future(w.consumers[0].stop(grace))
    await settle()
    return ending


async def test_tasks_queued_at_a_consumer_that_shuts_down_start_at_the_next_at_once():
    async with world() as w:
        await w.start()
        await w.start()
        running = [await w.submit(image_params=LONG) for _ in range(2)]
        queued = [await w.submit() for _ in range(3)]
        w.add_runner("memory://2")
        await w.consumers[1].consumer.pool.look()
        owner = w.consumers[0] if w.consumers[0].consumer.attempts.under_way else w.consumers[1]
        w.consumers.remove(owner)
        w.consumers.insert(0, owner)
        ending = await shutting_down(w)
        assert [w.started(task) for task in queued[:2]] == [[1], [1]]
        await w.clock.advance(20)
        await ending
        assert {w.status(task) for task in (*running, *queued)} == {"completed"}
        assert [w.started(task) for task in (*running, *queued)] == [[1]] * 5
        assert w.watermark_at_end()


async def test_a_consumer_that_shuts_down_starts_nothing_more():
    async with world() as w:
        await w.start()
        for _ in range(2):
            await w.submit(image_params={"steps": 20})
        queued = await w.submit()
        ending = await shutting_down(w)
        late = await w.submit()
        await w.clock.advance(20)
        await ending
        assert w.started(queued) == w.started(late) == []


async def test_an_attempt_that_outlives_the_grace_is_released_for_the_next_owner_at_once():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        await w.clock.advance(1)
        ending = await shutting_down(w, grace=2)
        await w.start()
        await w.clock.advance(2)
        await ending
        assert w.started(task) == [1, 2]
        assert [event.counts for event in w.events(task) if isinstance(event, Released)] == [False]
        await w.clock.advance(11)
        assert w.outcome(task).tries == 1


async def test_a_cancel_stops_an_attempt_of_a_consumer_that_shuts_down():
    async with world() as w:
        await w.start()
        canceled, other = await w.submit(image_params=LONG), await w.submit(image_params={"steps": 20})
        ending = await shutting_down(w)
        await w.start()
        await w.cancel(canceled)
        await w.clock.advance(0.2)
        assert w.runner.dropped == [canceled.task_id]
        assert w.status(canceled) == "canceled"
        assert not ending.done()
        await w.clock.advance(20)
        await asyncio.wait_for(ending, 10)
        assert w.status(other) == "completed"
        assert [w.started(task) for task in (canceled, other)] == [[1], [1]]
        assert w.watermark_at_end()


async def test_a_second_signal_cuts_the_grace_short():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params=LONG)
        ending = await shutting_down(w, grace=600)
        await w.clock.advance(1)
        assert not ending.done()
        w.consumers[0].consumer.stop()
        await asyncio.wait_for(ending, 10)
        assert [event.code for event in w.events(task) if isinstance(event, Released)] == ["shutting_down"]


async def test_a_task_that_no_runner_accepted_is_left_to_the_next_owner_as_a_first_attempt(
    monkeypatch: pytest.MonkeyPatch,
):
    async with world() as w:
        slow_to_accept(w.runner, monkeypatch)
        await w.start()
        task = await w.submit()
        ending = await shutting_down(w)
        await w.start()
        await w.clock.advance(10)
        await ending
        assert w.status(task) == "completed"
        assert w.started(task) == [1]
        assert len(w.runner.ran) == 1


async def test_a_task_that_no_runner_accepted_goes_with_its_partition(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        slow_to_accept(w.runner, monkeypatch)
        await w.start()
        tasks = [await w.submit() for _ in range(2)]
        for _ in range(3):
            await w.start()
        await w.clock.advance(10)
        assert [w.status(task) for task in tasks] == ["completed"] * 2
        assert [w.started(task) for task in tasks] == [[1]] * 2
        assert len(w.runner.ran) == 2


async def test_tasks_that_an_ending_runner_refuses_start_elsewhere_as_first_attempts():
    async with world() as w:
        await w.start()
        w.add_runner("memory://2")
        await w.clock.advance(3)
        first, second = w.runners.values()
        first.loading = True
        tasks = [await w.submit() for _ in range(4)]
        await w.clock.advance(10)
        assert [w.status(task) for task in tasks] == ["completed"] * 4
        assert [w.started(task) for task in tasks] == [[1]] * 4
        assert first.ran == []
        assert len(second.ran) == 4


async def test_a_runner_that_refused_gets_no_task_until_it_answers_with_its_card_again(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        await w.start()
        asked = 0
        run = w.runner.run

        def counted(request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
            nonlocal asked
            asked += 1
            return run(request, inputs)

        monkeypatch.setattr(w.runner, "run", counted)
        w.runner.loading = True
        for _ in range(20):
            await w.submit()
        await w.clock.advance(10)
        assert asked <= 2
        w.runner.loading = False
        await w.clock.advance(40)
        assert len(w.runner.ran) == 20


async def test_runners_that_never_accepted_the_task_cost_no_try():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params={"steps": 1})
        await w.clock.advance(5)
        for _ in range(2 * MAX_TRIES):
            w.runner.away = True
            task = await w.submit(image_params={"steps": 1})
            await w.clock.advance(3)
            assert w.status(task) is None
            w.runner.away = False
            await w.clock.advance(3)
            assert w.status(task) == "completed"
            assert w.started(task) == [1]
