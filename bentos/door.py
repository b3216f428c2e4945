"""How an ASGI app of ours stands in a BentoML service: made when the worker starts, never at import."""

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Opened:
    """The app of this process and its lifespan."""

    def __init__(self) -> None:
        """Nothing made yet."""
        self.app: FastAPI | None = None
        self._stack = contextlib.AsyncExitStack()

    async def open(self, app: FastAPI) -> None:
        """Serve this app from now on."""
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        self.app = app

    async def close(self) -> None:
        """End the app's lifespan."""
        await self._stack.aclose()


class Door:
    """ASGI middleware: every HTTP request goes to our app, past BentoML's own routes of the same names."""

    def __init__(self, app: App, opened: Opened) -> None:
        """Stands before BentoML's `app`, which keeps the lifespan."""
        self._bentoml = app
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request in."""
        inside: App = self._opened.app if scope["type"] == "http" and self._opened.app else self._bentoml
        await inside(scope, receive, send)
