"""The app that a BentoML service hosts: which requests reach it, and the order in which it ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

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


@pytest.fixture
def sigterm() -> Iterator[None]:
    """The handler of SIGTERM is put back after the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def until(steps: list[str], last: str) -> None:
    """Return when this step was taken."""
    async with asyncio.timeout(5):
        while last not in steps:
            await asyncio.sleep(0.001)


async def test_http_requests_reach_the_hosted_app_and_all_else_bentoml():
    async def bentoml(scope: Any, receive: Any, send: Any) -> None:
        reached.append(f"bentoml {scope['type']}")

    async def hosted_app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(f"hosted {scope['type']}")

    reached: list[str] = []
    hosted = HostedApp()
    root = RootMiddleware(bentoml, hosted)
    await root({"type": "http"}, None, None)  # type: ignore[arg-type]
    hosted.app = hosted_app  # type: ignore[assignment]
    for kind in ("http", "lifespan", "websocket"):
        await root({"type": kind}, None, None)  # type: ignore[arg-type]
    assert reached == ["bentoml http", "hosted http", "bentoml lifespan", "bentoml websocket"]


async def test_at_sigterm_the_app_leaves_first_and_then_the_server_ends(sigterm: None):
    steps: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: steps.append("server ends"))
    goes_on = asyncio.Event()

    async def leave() -> None:
        steps.append("leaves")
        await goes_on.wait()
        steps.append("has left")

    hosted = HostedApp()
    hosted.on_sigterm(leave, 5.0)
    assert not hosted.leaving
    os.kill(os.getpid(), signal.SIGTERM)
    await until(steps, "leaves")
    assert hosted.leaving
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)
    goes_on.set()
    await until(steps, "server ends")
    assert steps == ["leaves", "has left", "server ends"]


async def test_the_server_ends_even_when_leaving_fails(sigterm: None):
    steps: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: steps.append("server ends"))

    async def leave() -> None:
        raise RuntimeError("cannot leave")

    hosted = HostedApp()
    hosted.on_sigterm(leave, 5.0)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(steps, "server ends")
    assert hosted._leave is not None
    with pytest.raises(RuntimeError, match="cannot leave"):
        await hosted._leave


async def test_answers_under_way_get_the_grace_when_the_server_ends(sigterm: None):
    server = uvicorn.Server(uvicorn.Config(FastAPI()))
    signal.signal(signal.SIGTERM, server.handle_exit)
    steps: list[str] = []

    async def leave() -> None:
        steps.append("leaves")

    hosted = HostedApp()
    hosted.on_sigterm(leave, 7.0)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(steps, "leaves")
    async with asyncio.timeout(5):
        while not server.should_exit:
            await asyncio.sleep(0.001)
    assert server.config.timeout_graceful_shutdown == 7.0


async def test_what_was_opened_first_is_closed_last():
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        steps.append("app opens")
        yield
        steps.append("app closes")

    hosted = HostedApp()
    hosted.on_close(lambda: steps.append("store closes"))
    await hosted.open(FastAPI(lifespan=lifespan))
    await hosted.close()
    assert steps == ["app opens", "app closes", "store closes"]
