"""The routes of operators: /livez, /healthz, /readyz and /metrics."""

import asyncio
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from functions.api.api_keys import ApiKeyFile
from functions.api.metrics import GatewayMetrics
from functions.api.problems import MEDIA_TYPE
from functions.status.task_index import TaskIndex
from tasks.errors import StartingUp, StoreUnavailable, TaskError
from tasks.ports import ImageStore, LogReader

logger = logging.getLogger(__name__)

PROBES = frozenset({"/livez", "/healthz", "/readyz"})
"""The paths that an orchestrator asks. They answer to any host, because it asks the address of the pod, and no limit
concerns them, because it would restart a gateway for being busy."""
_CHECK_SECONDS = 1.0
_READY_LAG = 1000
"""How many records behind the end of the log a gateway may be and still be ready."""

_SENTENCES = {
    "gateway": "This gateway is about to end.",
    "queue": "The queue (Kafka) cannot be reached now.",
    "store": "The image store (S3) cannot be reached now.",
    # A model without runners is enough: a task must be accepted before anything starts a runner for it.
    "models": "No model is known yet: no runner has reported one, and none was published.",
    "view": "The gateway is still reading the queue.",
}
"""What may be missing, and all that anybody is told about it. The cause, which may name an address, is in the log."""
_KEYS_BROKEN = {
    "api_keys_unusable": "The file of API keys cannot be used. The keys that were read before stay in force."
}


class Health:
    """Checks what a gateway needs: the log, the store, and a model."""

    def __init__(
        self,
        task_log: LogReader,
        store: ImageStore,
        index: TaskIndex,
        metrics: GatewayMetrics,
        keys: ApiKeyFile | None = None,
    ) -> None:
        """The log and the store are checked at most once a second, however often the routes are called."""
        self._keys = keys
        self._task_log = task_log
        self._store = store
        self._index = index
        self._metrics = metrics
        self._missing: Mapping[str, str] = {}
        self._checked = float("-inf")
        self._checking = asyncio.Lock()

    def add_routes(self, app: FastAPI) -> None:
        """Add the four routes. They ask for no API key and are not counted as requests."""
        for path, route in (
            ("/livez", self._livez),
            ("/healthz", self._livez),
            ("/readyz", self._readyz),
            ("/metrics", self._page),
        ):
            app.add_route(path, route, include_in_schema=False)

    async def missing(self) -> Mapping[str, str]:
        """The sentence about each thing that is missing; empty when the gateway is ready."""
        async with self._checking:
            if self._index.closing:
                self._set_missing({"gateway": ""})
            elif time.monotonic() - self._checked >= _CHECK_SECONDS:
                queue, store = await asyncio.gather(self._check_queue(), self._check_store())
                models = {} if self._index.view.models() else {"models": ""}
                self._set_missing(queue | store | models)
                self._checked = time.monotonic()
        return self._missing

    def _set_missing(self, causes: Mapping[str, str]) -> None:
        for name, sentence in _SENTENCES.items():
            self._metrics.not_ready.labels(name).set(name in causes)
            if name in causes and name not in self._missing:
                logger.warning("not ready: %s", sentence, extra={"cause": causes[name]} if causes[name] else None)
        self._missing = {name: _SENTENCES[name] for name in causes}

    async def _check_queue(self) -> dict[str, str]:
        try:
            lag = self._index.lag(await self._task_log.ends())
        except TaskError as error:
            return {"queue": _cause(error)}
        self._metrics.lag.set(lag)
        if self._index.started and lag <= _READY_LAG:
            return {}
        return {"view": f"{lag} records to go"}

    async def _check_store(self) -> dict[str, str]:
        try:
            await self._store.check_reachable()
        except StoreUnavailable as error:
            return {"store": _cause(error)}
        return {}

    async def _livez(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        missing = await self.missing()
        if not missing:
            # Not 503: the keys that were read before still open the gateway, and a restart would lose them.
            degraded = {"degraded": _KEYS_BROKEN} if self._keys is not None and self._keys.broken else {}
            return JSONResponse({"status": "ready", **degraded})
        problem = StartingUp(" ".join(missing.values())).problem(request.scope["path"]) | {"missing": missing}
        return JSONResponse(problem, HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}, MEDIA_TYPE)

    async def _page(self, _: Request) -> Response:
        await self.missing()
        self._metrics.waiting.set(self._index.waiting)
        for model in self._index.queues.models():
            self._metrics.queued.labels(model).set(len(self._index.queues.queue(model)))
        return Response(generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _cause(error: TaskError) -> str:
    return f"{error.detail} {error.__cause__ or ''}".strip()
