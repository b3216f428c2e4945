"""/livez, /readyz and /metrics, as a layer that also stands before a server that has routes of these names."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from functions.api.metrics import GatewayMetrics
from functions.status.task_index import TaskIndex
from tasks.errors import StartingUp, StoreUnavailable, TaskError, UnknownImage
from tasks.ports import ImageStore, TaskLog

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CHECK_SECONDS = 1.0
_LAG = 1000
"""Records behind the end of the queue at which a gateway still counts as ready."""
_PROBE = "system/id_secret"


class Health:
    """Says what is missing."""

    def __init__(self, log: TaskLog, store: ImageStore, follower: TaskIndex, metrics: GatewayMetrics) -> None:
        """Asks queue and store at most once a second, however often it is asked."""
        self._log = log
        self._store = store
        self._follower = follower
        self._metrics = metrics
        self._missing: dict[str, str] = {}
        self._checked = float("-inf")
        self._looking = asyncio.Lock()

    async def missing(self) -> dict[str, str]:
        """Each missing thing, and a sentence about it."""
        if self._follower.closing:
            return {"gateway": "This gateway is about to end."}
        async with self._looking:
            if time.monotonic() - self._checked >= _CHECK_SECONDS:
                queue, store = await asyncio.gather(self._queue(), self._stored())
                models = {} if self._follower.view.cards() else {"models": "No runner has said yet what it can do."}
                self._missing = queue | store | models
                self._checked = time.monotonic()
        return self._missing

    async def _queue(self) -> dict[str, str]:
        try:
            lag = self._follower.lag(await self._log.ends())
        except TaskError as error:
            return {"queue": error.detail}
        self._metrics.lag.set(lag)
        if self._follower.started and lag <= _LAG:
            return {}
        return {"view": f"The gateway is still reading the queue: {lag} records to go."}

    async def _stored(self) -> dict[str, str]:
        try:
            with contextlib.suppress(UnknownImage):
                await self._store.get_image(_PROBE)
        except StoreUnavailable as error:
            return {"store": error.detail}
        return {}

    def answer_for(self, path: str) -> Callable[[], Awaitable[tuple[int, str, bytes]]] | None:
        """What makes the answer for this path, if it is one of ours."""
        answers = {"/livez": self._livez, "/healthz": self._livez, "/readyz": self._readyz, "/metrics": self._page}
        return answers.get(path)

    async def _livez(self) -> tuple[int, str, bytes]:
        return 200, "application/json", b'{"status":"alive"}'

    async def _readyz(self) -> tuple[int, str, bytes]:
        missing = await self.missing()
        if not missing:
            return 200, "application/json", b'{"status":"ready"}'
        document = StartingUp(" ".join(missing.values())).problem("/readyz") | {"missing": missing}
        return 503, "application/problem+json", json.dumps(document).encode()

    async def _page(self) -> tuple[int, str, bytes]:
        await self.missing()
        self._metrics.waiting.set(self._follower.waiting)
        for model in self._follower.queues.models():
            self._metrics.queued.labels(model).set(len(self._follower.queues.queue(model)))
        return 200, CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry)


class HealthLayer:
    """ASGI middleware: answers these paths, and passes everything else on."""

    def __init__(self, app: App, health: Health) -> None:
        """Stands before `app`."""
        self._app = app
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        answer = self._health.answer_for(scope["path"]) if scope["type"] == "http" else None
        if answer is None:
            await self._app(scope, receive, send)
            return
        status, kind, body = await answer()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        if status == 503:
            headers.append((b"retry-after", b"1"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
