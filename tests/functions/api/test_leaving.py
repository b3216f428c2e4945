"""A gateway that is told to end: who waits is answered, and load balancers hear of it first."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx

from adapters.clock import settle
from bentos.hosting import HostedApp, RootMiddleware
from tests.support.gateway_world import BODY, world


async def test_it_says_that_it_is_not_ready_at_once_and_still_serves():
    async with world() as w:
        client, gateway = await w.gateway()
        assert (await client.get("/readyz")).status_code == 200
        gateway.stop_waiting()
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "about to end" in answer.json()["detail"]
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/generate_image", json=BODY)).status_code == 202


async def test_who_waits_is_told_where_the_task_stands():
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


async def test_who_listens_is_told_to_connect_again():
    async with world() as w:
        client, gateway = await w.gateway()
        task_id = (await client.post("/generate_image", json=BODY)).json()["task_id"]
        listening = asyncio.ensure_future(client.get(f"/events/{task_id}"))
        await settle()
        gateway.stop_waiting()
        told = (await asyncio.wait_for(listening, 10)).text
        assert told.startswith("event: status\n")
        assert told.endswith("\n\nretry: 1000\n: this gateway is about to end; connect again\n\n")


async def test_answers_of_a_gateway_that_is_about_to_end_close_their_connection():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    hosted = HostedApp()
    transport = httpx.ASGITransport(RootMiddleware(app, hosted))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert "connection" not in (await client.get("/")).headers
        hosted.leaving = True
        assert (await client.get("/")).headers["connection"] == "close"


async def test_a_websocket_or_a_lifespan_passes_as_it_is():
    seen: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    async def send(message: MutableMapping[str, Any]) -> None:
        seen.append(message)

    hosted = HostedApp()
    hosted.leaving = True
    await RootMiddleware(app, hosted)({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan.startup.complete"}]
