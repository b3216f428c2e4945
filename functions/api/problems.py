"""Every error as a problem document (RFC 9457)."""

import logging
import math
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from functions.api.metrics import GatewayMetrics
from tasks.errors import MethodNotAllowed, NotFound, TaskError, WorkerFailed

log = logging.getLogger(__name__)


def problem(request: Request, error: TaskError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for this error."""
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="ai-image-gen"'
    headers["Cache-Control"] = "no-store"
    return JSONResponse(
        error.problem(instance=request.scope["path"]),
        status_code=error.status,
        headers=headers,
        media_type="application/problem+json",
    )


def install(app: FastAPI, metrics: GatewayMetrics) -> None:
    """Let the app answer every error with a problem document, and count those that no route of ours answered."""

    @app.exception_handler(TaskError)
    async def known(request: Request, error: TaskError) -> JSONResponse:
        return problem(request, error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        metrics.requests.labels("none", error.status_code).inc()
        match error.status_code:
            case 404:
                return problem(request, NotFound(f"There is nothing at {request.scope['path']}."), headers)
            case 405:
                allowed = headers.get("Allow", "")
                return problem(request, MethodNotAllowed(f"Use {allowed}." if allowed else ""), headers)
        status = HTTPStatus(error.status_code)
        told = {"type": "about:blank", "title": status.phrase, "status": status, "detail": error.detail}
        told |= {"code": status.name.lower(), "instance": request.scope["path"]}
        return JSONResponse(told, status, headers, media_type="application/problem+json")

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return problem(request, WorkerFailed("The gateway made a mistake; it is in its log."))
