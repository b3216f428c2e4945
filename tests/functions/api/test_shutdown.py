"""A gateway that is about to end: waiting callers are answered, and readiness says so first."""

import asyncio

from adapters.clock import settle
from tests.support.gateway_world import BODY, until_waiting, world


async def test_a_gateway_about_to_end_is_not_ready_at_once_and_still_serves():
    async with world() as w:
        client, gateway = await w.gateway()
        assert (await client.get("/readyz")).status_code == 200
        gateway.stop_waiting()
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "about to end" in answer.json()["detail"]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/generate_image", json=BODY)).status_code == 202


async def test_waiting_callers_get_the_status_when_the_gateway_ends():
    async with world() as w:
        client, gateway = await w.gateway()
        task_id = (await client.post("/generate_image", json=BODY)).json()["task_id"]
        waits = [
            asyncio.ensure_future(client.post("/generate_image", json=BODY, headers={"Prefer": "wait=60"})),
            asyncio.ensure_future(client.get(f"/check_status/{task_id}", headers={"Prefer": "wait=60"})),
        ]
        await settle()
        assert not any(wait.done() for wait in waits)
        gateway.stop_waiting()
        answers = await asyncio.wait_for(asyncio.gather(*waits), 10)
        assert [(one.status_code, one.json()["status"]) for one in answers] == [(202, "queued"), (200, "queued")]
        assert answers[0].headers["location"] == f"/check_status/{answers[0].json()['task_id']}"


async def test_event_streams_tell_the_client_to_connect_again_when_the_gateway_ends():
    async with world() as w:
        client, gateway = await w.gateway()
        task_id = (await client.post("/generate_image", json=BODY)).json()["task_id"]
        listening = asyncio.ensure_future(client.get(f"/events/{task_id}"))
        await settle()
        gateway.stop_waiting()
        text = (await asyncio.wait_for(listening, 10)).text
        assert text.startswith("event: status\n")
        assert text.endswith("\n\nretry: 1000\n: this gateway is about to end; connect again\n\n")


async def test_a_gateway_that_ends_answers_every_wait():
    async with world() as w:
        client, gateway = await w.gateway()
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers={"Prefer": "wait=30"}))
        await until_waiting(gateway)
        gateway.stop_waiting()
        answer = await asyncio.wait_for(waiting, 5)
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
