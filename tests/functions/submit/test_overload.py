"""Overload: gateways and consumers on one broker and store, with limits on what may be queued."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import httpx

from adapters.clock import settle
from adapters.memory_log import MemoryLog
from functions.api.app import build_gateway
from tasks.log import Partition, Records
from tests.support.gateway_world import BODY, is_problem
from tests.support.world import World, card, world

OF_USER, OF_ALL = 20, 50


class LateLog(MemoryLog):
    """A log whose followers get no new record while `late`."""

    late = False

    async def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """See TaskLog."""
        async with contextlib.aclosing(super().follow(offsets)) as runs:
            async for run in runs:
                while self.late:
                    await asyncio.sleep(0.01)
                yield run


@contextlib.asynccontextmanager
async def gateway(w: World) -> AsyncIterator[tuple[httpx.AsyncClient, LateLog]]:
    """A gateway of the world, with the limits."""
    settings = w.settings.model_copy(update={"max_queued_tasks_per_user": OF_USER, "max_queued_tasks": OF_ALL})
    log = LateLog(w.broker)
    made = build_gateway(settings, task_log=log, store=w.store, clock=w.clock)
    await log.append_card(card())
    async with made.app.router.lifespan_context(made.app):
        transport = httpx.ASGITransport(made.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            await settle()
            yield client, log


async def submit(client: httpx.AsyncClient, user: str) -> httpx.Response:
    """The answer to one submit of the user."""
    return await client.post("/generate_image", json={**BODY, "user_id": user})


async def burst(client: httpx.AsyncClient, users: list[str]) -> list[httpx.Response]:
    """The answers to one submit of each user, all at once."""
    return await asyncio.gather(*(submit(client, user) for user in users))


def accepted(answers: list[httpx.Response]) -> int:
    """How many of them are 202."""
    return sum(answer.status_code == 202 for answer in answers)


async def test_a_burst_stops_at_the_users_limit_though_nothing_was_read_back_yet() -> None:
    async with world() as w, gateway(w) as (client, log):
        log.late = True
        answers = await burst(client, ["flood"] * 300)
        assert accepted(answers) == OF_USER
        log.late = False
        await settle()
        assert accepted(await burst(client, ["flood"] * 300)) == 0


async def test_a_refusal_names_the_limit_and_when_to_retry_and_others_are_served() -> None:
    async with world() as w, gateway(w) as (client, _):
        await burst(client, ["flood"] * OF_USER)
        answer = await submit(client, "flood")
        problem = is_problem(answer, 429, "user_queue_full")
        assert "20 (MAX_QUEUED_TASKS_PER_USER)" in problem["detail"]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await submit(client, "other")).status_code == 202


async def test_a_task_that_starts_or_is_canceled_makes_room_for_one_more() -> None:
    async with world() as w:
        await w.start()
        w.runner.step_seconds = 1000.0
        async with gateway(w) as (client, _):
            answers = await burst(client, ["flood"] * 60)
            running = len(w.runner.running)
            assert running
            assert accepted(await burst(client, ["flood"] * 60)) == OF_USER + running - accepted(answers)
            queued = [a.json()["task_id"] for a in answers if a.status_code == 202][-1]
            assert (await client.post(f"/cancel_task/{queued}")).status_code == 202
            await settle()
            assert accepted(await burst(client, ["flood"] * 60)) == 1


async def test_a_task_that_could_not_be_appended_takes_no_room() -> None:
    async with world() as w, gateway(w) as (client, _):
        w.broker.down = True
        assert {a.status_code for a in await burst(client, ["a"] * (2 * OF_USER))} == {503}
        w.broker.down = False
        assert accepted(await burst(client, ["a"] * (2 * OF_USER))) == OF_USER


async def test_endless_new_users_are_stopped_by_the_limit_for_all() -> None:
    async with world() as w, gateway(w) as (client, log):
        log.late = True
        answers = await burst(client, [f"user-{n}" for n in range(500)])
        assert accepted(answers) == OF_ALL
        problem = is_problem(answers[-1], 429, "queue_full")
        assert "50 (MAX_QUEUED_TASKS)" in problem["detail"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        log.late = False


async def test_a_repeated_request_is_answered_with_its_task_though_the_queue_is_full() -> None:
    async with world() as w, gateway(w) as (client, _):
        keyed = {"Idempotency-Key": "k"}
        first = await client.post("/generate_image", json={**BODY, "user_id": "a"}, headers=keyed)
        await burst(client, ["a"] * OF_USER)
        again = await client.post("/generate_image", json={**BODY, "user_id": "a"}, headers=keyed)
        assert (again.status_code, again.json()["task_id"]) == (202, first.json()["task_id"])


async def test_a_flood_delays_another_users_first_task_by_no_more_than_what_runs() -> None:
    async with world() as w:
        await w.start()
        async with gateway(w) as (client, _):
            for _ in range(10):
                await burst(client, ["flood"] * OF_USER)
                await w.clock.advance(0.3)
            other = (await submit(client, "other")).json()
            assert (other["status"], other["position"]) == ("queued", 0)
            await w.clock.advance(1.1)
            status = (await client.get(f"/check_status/{other['task_id']}")).json()
            assert status["status"] in ("running", "completed")
