"""What all faces share: each request is counted and gets a caller, and each error is rendered in the face's own shape.

A face is a file with a function `(FastAPI, FaceParts) -> None` that adds its routes to an app of its own, and a line in
`app.py` that mounts this app.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from functions.api.auth import Authenticator
from functions.api.caller import ANYBODY, Caller
from functions.api.gateway import Gateway
from functions.api.limits import ClientLimits
from functions.api.metrics import GatewayMetrics
from functions.api.problems import Problem, problem_of, problem_of_framework
from tasks.errors import TaskError, WorkerFailed

logger = logging.getLogger(__name__)

Call = Callable[[Request, Caller], Awaitable[Response]]
"""A route of a face: answers a request of a caller. It may raise any TaskError."""
Renderer = Callable[[Problem, Mapping[str, str]], Response]
"""Makes the answer of a face for an error, with these headers beside its own."""


@dataclass(frozen=True)
class FaceParts:
    """The objects that a face is built on. `authenticator` is None while API keys are off."""

    gateway: Gateway
    authenticator: Authenticator | None
    metrics: GatewayMetrics
    limits: ClientLimits


class Face:
    """Adds routes to an app. Plain Starlette routes: every answer is a finished Response already, so FastAPI's parsing
    and validation would cost each request time for nothing."""

    def __init__(self, app: FastAPI, parts: FaceParts, render: Renderer, prefix: str = "") -> None:
        """`prefix`: where the app is mounted, as the metrics name its routes."""
        self._app = app
        self._authenticator = parts.authenticator
        self._metrics = parts.metrics
        self._limits = parts.limits
        self._render = render
        self._prefix = prefix
        app.add_exception_handler(TaskError, self._task_error)
        app.add_exception_handler(HTTPException, self._framework_error)
        app.add_exception_handler(Exception, self._internal_error)

    def add(self, method: str, path: str, call: Call) -> None:
        """Answer this method of this path; GET includes HEAD."""
        route = self._prefix + path
        seconds = self._metrics.seconds.labels(route)

        async def counted(request: Request) -> Response:
            began = time.perf_counter()
            status = 500
            try:
                # The key is checked here, so that no route can forget it.
                caller = self._authenticator.caller(request) if self._authenticator else ANYBODY
                answer = await call(request, self._limits.admit(caller, request.scope))
                status = answer.status_code
                return answer
            except Exception as error:
                status = getattr(error, "status", 500)
                raise
            finally:
                seconds.observe(time.perf_counter() - began)
                self._metrics.requests.labels(route, status).inc()

        methods = ["GET", "HEAD"] if method == "GET" else [method]
        self._app.add_route(path, counted, methods=methods, include_in_schema=False)

    def error(self, request: Request, error: TaskError, headers: Mapping[str, str]) -> Response:
        """The answer for this error, with these headers."""
        problem, of_error = problem_of(error, request.scope["path"])
        return self._render(problem, {**of_error, **headers})

    async def _task_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, TaskError)
        return self.error(request, error, {})

    async def _framework_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._metrics.requests.labels("none", error.status_code).inc()
        return self._render(*problem_of_framework(error, request.scope["path"]))

    async def _internal_error(self, request: Request, error: Exception) -> Response:
        logger.error("internal error", exc_info=error)
        return self.error(request, WorkerFailed("Internal error of the gateway; its log has the details."), {})
