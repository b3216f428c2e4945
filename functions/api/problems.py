"""The problem document (RFC 9457) with which the API answers every error."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from tasks.errors import BROWSER_RULES, ERRORS, MethodNotAllowed, NotFound, TaskError

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """An error."""

    type: str = Field(description="Where the error is explained.")
    title: str = Field(description="The error in one sentence.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What went wrong this time.")
    code: Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(ERRORS)})] = Field(
        description="The error's stable name."
    )
    instance: str | None = Field(default=None, description="The path of the request.")
    field: str | None = Field(default=None, description="The field or header that is wrong.")
    allowed: list[str] | None = Field(default=None, description="What would have been accepted.")


def problem_of(error: TaskError, path: str) -> tuple[Problem, dict[str, str]]:
    """The problem document of this error at this path, and the headers that belong to it."""
    headers = {"Cache-Control": "no-store", **BROWSER_RULES}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="ai-image-gen"'
    return Problem.model_validate(error.problem(instance=path)), headers


def problem_of_framework(error: HTTPException, path: str) -> tuple[Problem, dict[str, str]]:
    """The same for an error that the framework raised because no route took the request."""
    headers = dict(error.headers or {})
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            problem, more = problem_of(NotFound(f"There is nothing at {path}."), path)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = headers.get("Allow", "")
            problem, more = problem_of(MethodNotAllowed(f"Use {allowed}." if allowed else ""), path)
        case _:
            status = HTTPStatus(error.status_code)
            fields = {"type": "about:blank", "title": status.phrase, "status": status, "detail": error.detail}
            problem, more = (
                Problem.model_validate({**fields, "code": status.name.lower(), "instance": path}),
                BROWSER_RULES,
            )
    return problem, headers | more


def render_problem(problem: Problem, headers: Mapping[str, str]) -> Response:
    """The answer with this problem document."""
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)
