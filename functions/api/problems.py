"""Every error as a problem document (RFC 9457)."""

import logging
import math

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tasks.errors import MethodNotAllowed, NotFound, TaskError, WorkerFailed

log = logging.getLogger(__name__)


def problem(request: Request, error: TaskError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for this error."""
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    headers["Cache-Control"] = "no-store"
    return JSONResponse(
        error.problem(instance=request.url.path),
        status_code=error.status,
        headers=headers,
        media_type="application/problem+json",
    )


def install(app: FastAPI) -> None:
    """Let the app answer every error with a problem document."""

    @app.exception_handler(TaskError)
    async def known(request: Request, error: TaskError) -> JSONResponse:
        return problem(request, error)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            allowed = headers.get("Allow", "")
            return problem(request, MethodNotAllowed(f"Use {allowed}." if allowed else ""), headers)
        return problem(request, NotFound(f"There is nothing at {request.url.path}."), headers)

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", exc_info=error)
        return problem(request, WorkerFailed("The gateway made a mistake; it is in its log."))
