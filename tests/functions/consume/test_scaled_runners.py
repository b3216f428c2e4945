"""Runners come and go as `GET /scale/{model}` asks: from none and back, and no task is lost or loses a try. On twins."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from adapters.clock import settle
from adapters.memory_log import MemoryLog
from functions.api.app import build_gateway
from functions.consume.publish_models import publish
from tasks.errors import RunnerLoading
from tasks.events import Released
from tests.support.gateway_world import BODY
from tests.support.world import SETTINGS, World, card, world

SECOND_LOOK = 2.5
"""Seconds after which every consumer has looked at its runners again."""


class Scaler:
    """Starts and stops runners as an autoscaler does. A runner loads for as long as it is asked to."""

    def __init__(self, w: World, client: httpx.AsyncClient) -> None:
        self.world = w
        self.client = client
        self.number = 0

    async def scale(self) -> dict[str, Any]:
        """The answer of the gateway once every consumer has looked at its runners."""
        await self.world.clock.advance(SECOND_LOOK)
        return dict((await self.client.get("/scale/sd-mini")).json())

    def start_runner(self) -> str:
        """One more runner, which loads."""
        self.number += 1
        url = f"memory://scaled-{self.number}"
        self.world.add_runner(url).loading = True
        return url


@contextlib.asynccontextmanager
async def scaled() -> AsyncIterator[Scaler]:
    """A consumer without runners and a gateway, on one broker, and a published model."""
    async with world() as w:
        w.runners.clear()
        await publish(w.client, [card(runners=0, seconds_per_megapixel_step=0.0)])
        await w.start()
        gateway = build_gateway(SETTINGS, task_log=MemoryLog(w.broker), store=w.store, clock=w.clock)
        async with gateway.app.router.lifespan_context(gateway.app):
            transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                await settle()
                yield Scaler(w, client)


async def submit(scaler: Scaler, steps: int = 10) -> str:
    answer = await scaler.client.post("/generate_image", json={**BODY, "image_params": {"steps": steps}})
    assert answer.status_code == 202, answer.text
    await settle()
    return str(answer.json()["task_id"])


async def status(scaler: Scaler, task_id: str) -> dict[str, Any]:
    return dict((await scaler.client.get(f"/check_status/{task_id}")).json())


async def test_a_model_is_scaled_from_no_runner_to_one_and_back_while_tasks_run():
    async with scaled() as s:
        assert (await s.scale())["runners_wanted"] == 0
        task_id = await submit(s)
        waiting = await s.scale()
        assert (waiting["queued"], waiting["runners"], waiting["runners_wanted"]) == (1, 0, 1)
        runner = s.start_runner()
        for _ in range(20):
            await submit(s)
        loading = await s.scale()
        assert (loading["tasks"], loading["loading"], loading["runners_wanted"]) == (21, 1, 1)
        s.world.runners[runner].loading = False
        assert (await s.scale())["running"] > 0
        await s.world.clock.advance(60)
        assert (await status(s, task_id))["status"] == "completed"
        done = await s.scale()
        assert (done["tasks"], done["runners"], done["runners_wanted"]) == (0, 1, 0)
        del s.world.runners[runner]
        gone = await s.scale()
        assert (gone["runners"], gone["runners_wanted"]) == (0, 0)


async def test_a_task_of_a_runner_that_is_scaled_away_goes_back_unspent():
    async with scaled() as s:
        first = s.start_runner()
        s.world.runners[first].loading = False
        task_id = await submit(s, steps=100)
        assert (await s.scale())["running"] == 1
        # What a runner does at the end of its grace: `tests/runners/test_leaving.py`.
        leaving = s.world.runners[first]
        leaving.loading, leaving.fail_next = True, [RunnerLoading("The runner is shutting down.")]
        await s.world.clock.advance(1)
        del s.world.runners[first]
        back = await s.scale()
        assert (back["queued"], back["running"], back["runners_wanted"]) == (1, 0, 1)
        second = s.start_runner()
        s.world.runners[second].loading = False
        await s.world.clock.advance(30)
        ended = await status(s, task_id)
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
        events = [e for t in s.world.broker.topics["events"].values() for e in t]
        released = [Released.model_validate_json(e.value) for e in events if b'"released"' in e.value]
        assert [event.counts for event in released] == [False]
