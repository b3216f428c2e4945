"""Looks for ids that the view does not have: many callers share few calls, and no answer is too old."""

import asyncio

import httpx

from adapters.clock import settle
from functions.status.looks import SharedLook
from tasks.events import Started
from tests.support.gateway_world import BODY, GatewayWorld, is_problem, world


class Calls:
    """Counts the calls of the log and of the store that a look makes."""

    def __init__(self, w: GatewayWorld, gateway_log: object) -> None:
        """Counts from now on."""
        self.log, self.store = 0, 0
        ends, get_outcome = gateway_log.ends, w.store.get_outcome  # type: ignore[attr-defined]

        async def counted_ends() -> object:
            self.log += 1
            return await ends()

        async def counted_get(task_id: str) -> object:
            self.store += 1
            return await get_outcome(task_id)

        gateway_log.ends = counted_ends  # type: ignore[attr-defined]
        w.store.get_outcome = counted_get  # type: ignore[method-assign, assignment]


async def ask(client: httpx.AsyncClient, *ids: str) -> list[int]:
    answers = await asyncio.gather(*(client.get(f"/check_status/{task_id}") for task_id in ids))
    return [answer.status_code for answer in answers]


async def test_many_requests_for_unknown_ids_share_a_look_at_the_log():
    async with world(max_unknown_ids_per_second=10_000) as w:
        client, gateway = await w.gateway()
        calls = Calls(w, gateway.index._task_log)
        assert await ask(client, *(f"{number:032x}" for number in range(200))) == [404] * 200
        assert calls.log <= 2
        assert calls.store == 200


async def test_an_unknown_id_that_is_asked_for_again_costs_no_call_of_the_store():
    async with world() as w:
        client, gateway = await w.gateway()
        calls = Calls(w, gateway.index._task_log)
        for _ in range(3):
            assert await ask(client, *["a" * 32] * 10) == [404] * 10
        assert calls.store == 1
        await w.clock.advance(6)
        assert await ask(client, "a" * 32) == [404]
        assert calls.store == 2


async def test_a_task_is_known_at_once_however_often_its_id_was_unknown_before():
    async with world() as w:
        (first, _), (second, _) = await w.gateway(), await w.gateway()
        await first.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        for number in range(5):
            later = task.model_copy(update={"task_id": f"{number:032x}"})
            assert await ask(second, *[later.task_id] * 3) == [404] * 3
            await w.log.append_task(later)  # and the second gateway has had no turn to read it
            assert await ask(second, *[later.task_id] * 3) == [200] * 3


async def test_a_look_under_way_does_not_answer_for_a_task_that_came_after_it():
    began = asyncio.Event()
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        await began.wait()

    shared = SharedLook(look)
    first = asyncio.ensure_future(shared())
    await settle()
    later = [asyncio.ensure_future(shared()) for _ in range(5)]
    await settle()
    assert looks == 1
    began.set()
    await first
    assert not any(caller.done() for caller in later)
    await asyncio.gather(*later)
    assert looks == 2


async def test_a_caller_that_hangs_up_ends_the_look_of_nobody_else():
    may_end = asyncio.Event()
    shared = SharedLook(lambda: may_end.wait())  # type: ignore[arg-type]
    leaving, staying = asyncio.ensure_future(shared()), asyncio.ensure_future(shared())
    await settle()
    leaving.cancel()
    await settle()
    may_end.set()
    await staying
    await shared()


async def test_a_failed_look_fails_its_callers_and_the_next_look_begins_anew():
    async with world() as w:
        client, _ = await w.gateway()
        w.broker.down = True
        is_problem(await client.get("/check_status/" + "a" * 32), 503, "queue_unavailable")
        w.broker.down = False
        w.store.down = True
        is_problem(await client.get("/check_status/" + "a" * 32), 503, "store_unavailable")
        w.store.down = False
        assert await ask(client, "a" * 32) == [404]


async def test_listeners_of_a_task_share_its_snapshot_and_are_woken_a_few_at_a_time():
    async with world() as w:
        client, gateway = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        listening = [asyncio.ensure_future(client.get(f"/events/{task.task_id}")) for _ in range(100)]
        await settle()
        index = gateway.index
        reads, get = 0, index.view.get

        def counted(task_id: str) -> object:
            nonlocal reads
            reads += 1
            return get(task_id)

        index.view.get = counted  # type: ignore[method-assign, assignment]
        started = Started(task_id=task.task_id, at=w.clock.now(), attempt=1, owner="o")
        await w.log.append_event(started, w.broker.partition_of(task.model_name))
        while len(index._to_wake) in (0, 100):
            await asyncio.sleep(0)
        assert 100 - len(index._to_wake) <= 8
        await w.end(task)
        assert [answer.status_code for answer in await asyncio.gather(*listening)] == [200] * 100
        assert reads < 20
