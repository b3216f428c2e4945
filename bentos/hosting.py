"""How a BentoML service hosts an ASGI app, which is built when the worker starts, not when its module is imported."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HostedApp:
    """The app of this process and its lifespan."""

    def __init__(self) -> None:
        """No app yet: requests reach BentoML's own routes until `open`."""
        self.app: FastAPI | None = None
        self.leaving = False
        self._leave: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()

    async def open(self, app: FastAPI) -> None:
        """Start the app's lifespan and serve it from now on."""
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        self.app = app

    def on_close(self, act: Callable[[], object]) -> None:
        """Call this when the app's lifespan has ended. To be called before `open`."""
        self._stack.callback(act)

    def on_sigterm(self, leave: Callable[[], Awaitable[object]], grace: float) -> None:
        """At SIGTERM call `leave` while requests are still answered. Only then let the server end: it accepts no
        connection from then on, and gives the answers under way `grace` seconds."""
        loop = asyncio.get_running_loop()
        end_server = signal.getsignal(signal.SIGTERM)

        async def leave_and_end(number: int) -> None:
            try:
                await leave()
            finally:
                server = getattr(end_server, "__self__", None)
                if isinstance(server, uvicorn.Server):
                    server.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
                assert callable(end_server)
                end_server(number, None)

        def begin(number: int) -> None:
            self._leave = self._leave or asyncio.ensure_future(leave_and_end(number))

        def handle(number: int, _: FrameType | None) -> None:
            # systemd signals every process of the service, and BentoML its workers: the second signal changes nothing.
            self.leaving = True
            loop.call_soon_threadsafe(begin, number)

        signal.signal(signal.SIGTERM, handle)

    async def close(self) -> None:
        """End the app's lifespan."""
        await self._stack.aclose()


class RootMiddleware:
    """ASGI middleware that sends every HTTP request to the hosted app, past BentoML's own routes of the same names."""

    def __init__(self, app: ASGIApp, hosted: HostedApp) -> None:
        """Wraps BentoML's `app`, which keeps the lifespan."""
        self._bentoml = app
        self._hosted = hosted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. While the process is about to end, answers ask the client to close the connection."""

        async def send_answer(message: Message) -> None:
            if self._hosted.leaving and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        app = self._hosted.app if scope["type"] == "http" and self._hosted.app else self._bentoml
        await app(scope, receive, send_answer)
