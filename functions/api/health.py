"""/livez, /readyz and /metrics, as a layer that also stands before a server that has routes of these names."""

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from functions.api.metrics import GatewayMetrics
from functions.status.follower import Follower
from tasks.errors import StartingUp, TaskError
from tasks.ports import ImageStore, TaskLog

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_CHECK_SECONDS = 1.0
_PROBE = "system/id_secret"


class Health:
    """Says what is missing."""

    def __init__(self, log: TaskLog, store: ImageStore, follower: Follower, metrics: GatewayMetrics) -> None:
        """Asks queue and store at most once a second, however often it is asked."""
        self._log = log
        self._store = store
        self._follower = follower
        self._metrics = metrics
        self._missing: dict[str, str] = {}
        self._checked = float("-inf")

    async def missing(self) -> dict[str, str]:
        """Each missing thing, and a sentence about it."""
        if time.monotonic() - self._checked >= _CHECK_SECONDS:
            self._missing = await self._look()
            self._checked = time.monotonic()
        return self._missing

    async def _look(self) -> dict[str, str]:
        missing = {}
        try:
            lag = self._follower.lag(await self._log.ends())
            if not self._follower.started or lag > 1000:
                missing["view"] = f"The gateway is still reading the queue: {lag} records to go."
        except TaskError as error:
            missing["queue"] = error.detail
        try:
            await self._store.get_image(_PROBE)
        except TaskError as error:
            if error.status == 503:
                missing["store"] = error.detail
        if not self._follower.view.cards():
            missing["models"] = "No runner has said yet what it can do."
        return missing

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
            return await self._app(scope, receive, send)
        status, kind, body = await answer()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
