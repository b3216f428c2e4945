"""How an ASGI app of ours stands in a BentoML service: made when the worker starts, never at import; ended in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, MutableMapping
from types import FrameType
from typing import Any

import uvicorn
from circus.sighandler import SysHandler
from fastapi import FastAPI

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class HostedApp:
    """The app of this process and its lifespan."""

    def __init__(self) -> None:
        """Nothing made yet."""
        self.app: FastAPI | None = None
        self.leaving = False
        self._leave: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    async def open(self, app: FastAPI) -> None:
        """Serve this app from now on."""
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        self.app = app

    def on_close(self, act: Callable[[], object]) -> None:
        """Do this too when the app's lifespan, opened later, has ended."""
        self._stack.callback(act)

    def on_sigterm(self, leave: Callable[[], Awaitable[object]], grace: float) -> None:
        """At SIGTERM do this first, while requests are still answered; then let the server end, which gives answers
        under way `grace` seconds. (Alone it takes no connection from the signal on, but leaves the caller waiting.)"""
        loop = asyncio.get_running_loop()
        end = signal.getsignal(signal.SIGTERM)

        async def go(number: int) -> None:
            try:
                await leave()
            finally:
                server = getattr(end, "__self__", None)
                if isinstance(server, uvicorn.Server):
                    server.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
                assert callable(end)
                end(number, None)

        def begin(number: int) -> None:
            self._leave = self._leave or asyncio.ensure_future(go(number))

        def handle(number: int, _: FrameType | None) -> None:
            # A second one comes from systemd, which tells every process, beside BentoML's own.
            self.leaving = True
            loop.call_soon_threadsafe(begin, number)

        signal.signal(signal.SIGTERM, handle)

    async def close(self) -> None:
        """End the app's lifespan."""
        await self._stack.aclose()


class RootMiddleware:
    """ASGI middleware: every HTTP request goes to our app, past BentoML's own routes of the same names."""

    def __init__(self, app: App, opened: HostedApp) -> None:
        """Stands before BentoML's `app`, which keeps the lifespan."""
        self._bentoml = app
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request in. Answers of a process that is about to end ask the client to connect anew."""

        async def said(message: MutableMapping[str, Any]) -> None:
            if self._opened.leaving and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        inside: App = self._opened.app if scope["type"] == "http" and self._opened.app else self._bentoml
        await inside(scope, receive, said)


def end_at_second_signal() -> None:
    """Let a second SIGTERM or SIGINT end BentoML's server and its workers at once: circus, on which it stands, waits a
    day for them and does not listen meanwhile."""
    quit_in_order = SysHandler.quit

    def quit_now(handler: Any) -> None:
        for watcher in handler.controller.arbiter.watchers:
            for pid in watcher.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os._exit(128 + signal.SIGTERM)

    def quit_(handler: Any) -> None:
        handler.quit = lambda: quit_now(handler)
        quit_in_order(handler)

    SysHandler.quit = quit_
