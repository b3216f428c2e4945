"""The app that a BentoML service hosts: which requests reach it, and the order in which it ends."""

from collections.abc import MutableMapping
from typing import Any

import httpx

from bentos.hosting import HostedApp, RootMiddleware


async def test_answers_of_a_process_about_to_end_close_their_connection():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    hosted = HostedApp()
    transport = httpx.ASGITransport(RootMiddleware(app, hosted))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert "connection" not in (await client.get("/")).headers
        hosted.leaving = True
        assert (await client.get("/")).headers["connection"] == "close"


async def test_a_lifespan_passes_to_bentoml_unchanged():
    seen: list[MutableMapping[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    async def send(message: MutableMapping[str, Any]) -> None:
        seen.append(message)

    hosted = HostedApp()
    hosted.leaving = True
    await RootMiddleware(app, hosted)({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan.startup.complete"}]
