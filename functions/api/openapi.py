"""The OpenAPI document behind /docs and /redoc.

The schemas are those of the models that make the answers, the errors those of tasks/errors.py.
`tests/functions/api/test_openapi.py` proves that every answer is documented and that every documented answer is given.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from functions.api.problems import MEDIA_TYPE, Problem
from functions.api.sse import PreviewEvent
from functions.status.document import TaskStatus
from functions.status.model_list import ModelList
from functions.status.scale import ModelScale
from tasks import errors as e
from tasks.errors import ERRORS, TaskError
from tasks.task import CONTENT_TYPES, TASK_ID, GenerateRequest

TITLE = "ai-image-gen"
_DESCRIPTION = """Post a prompt, get an image.

`POST /generate_image` answers at once with a task id; `GET /check_status/{task_id}` says where the task stands and
`GET /get_image/{task_id}` gives the image. A client that would rather wait sends `Prefer: wait=60`, and with
`Accept: image/*` the answer *is* the image. Every error is a problem document (RFC 9457) with a `code`:
[all of them](/docs/errors)."""

_REQUEST_EXAMPLE = {
    "model_name": "sd-mini",
    "prompt": "a red circle on a blue background",
    "negative_prompt": "a green background",
    "image_params": {"width": 64, "height": 64, "steps": 20, "seed": 7},
    "loras": [{"name": "night", "weight": 0.5}],
    "user_id": "ada",
    "topic": "online_task",
}
_REF = "#/components/schemas/{model}"

Errors = frozenset[type[TaskError]]

_KEY_ERRORS: Errors = frozenset({e.KeyInUrl, e.Unauthorized})
"""What every route may answer while API keys are on."""
_ROUTING_ERRORS: Errors = frozenset({e.NotFound, e.MethodNotAllowed, e.UnknownHost})
"""What the app answers if no route takes the request."""
_LIMIT_ERRORS: Errors = frozenset({e.TooManyConnections, e.GatewayFull})
"""What every route may answer to a client that holds too many requests open."""
_LOOKUP_ERRORS: Errors = frozenset(
    {e.UnknownTask, e.TooManyUnknownIds, e.QueueUnavailable, e.StoreUnavailable, e.StartingUp, e.UntrustedOutcome}
)
_IMAGE_ERRORS: Errors = frozenset({e.UnknownImage, e.ImageNotReady, e.NoImage, e.RangeNotSatisfiable})
_UNCOUNTED: Errors = frozenset(error for error in ERRORS.values() if error.retry == "uncounted")
"""No task ends with these: it is requeued."""
_SUBMIT_ERRORS: Errors = frozenset(ERRORS.values()) - _KEY_ERRORS - _ROUTING_ERRORS - _LIMIT_ERRORS - _UNCOUNTED - {
    e.NotAllowedByKey, e.UnknownTask, e.AlreadyEnded, e.ImageNotReady, e.NoPreview, e.RangeNotSatisfiable,
    e.TooManyStreams, e.TooManyUnknownIds,
}  # fmt: skip
"""Every error but those of other routes: a request that waits for the image is answered with whatever its task ended
with."""


@dataclass(frozen=True)
class Operation:
    """What the document says about one route. `answers` are the answers other than errors, by status."""

    summary: str
    answers: Mapping[str, Mapping[str, Any]]
    errors: Errors
    description: str = ""
    parameters: Collection[Mapping[str, Any]] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    errors_with_keys: Errors = _KEY_ERRORS

    def describe(self, *, keys: bool) -> dict[str, Any]:
        """The operation object of the document."""
        errors = self.errors | _LIMIT_ERRORS | {e.WorkerFailed} | (self.errors_with_keys if keys else frozenset())
        return {
            "summary": self.summary,
            **({"description": self.description} if self.description else {}),
            **({"parameters": list(self.parameters)} if self.parameters else {}),
            **({"requestBody": self.request} if self.request else {}),
            "responses": {**self.answers, **_problem_answers(errors)},
            **({"security": [{scheme: []} for scheme in _KEY_SCHEMES]} if keys else {}),
        }


_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The key as a bearer token."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, as a header."},
}


def _problem_answers(errors: Iterable[type[TaskError]]) -> dict[str, Any]:
    by_status: dict[str, list[type[TaskError]]] = {}
    for error in sorted(errors, key=lambda error: (error.status, error.code())):
        by_status.setdefault(str(error.status), []).append(error)
    return {
        status: {
            "description": "\n".join(f"- `{error.code()}`: {error.title()}" for error in of_status),
            "content": {MEDIA_TYPE: {"schema": _coded(of_status)}},
        }
        for status, of_status in by_status.items()
    }


def _coded(errors: Iterable[type[TaskError]]) -> dict[str, Any]:
    """A problem document with one of these codes."""
    codes = {"properties": {"code": {"enum": [error.code() for error in errors]}}}
    return {"allOf": [{"$ref": _REF.format(model=Problem.__name__)}, codes]}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}


def _json(description: str, model: type[BaseModel]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"description": description, "content": content}


def _image(description: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {kind: {"schema": schema} for kind in CONTENT_TYPES.values()}}


_TASK_ID = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": TASK_ID},
    "description": "The id that `POST /generate_image` answered.",
}
_MODEL = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
    "description": "A name of `GET /models`.",
}
_PREFER = _header(
    "Prefer", "`wait=N`: answer when the task has ended or N seconds have passed; the server may wait less."
)
_INDEX = {
    "name": "index",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999, "default": 0},
    "description": "Which image of the task.",
}
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": ["status", "progress", "preview", "end"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [{"$ref": _REF.format(model=model.__name__)} for model in (TaskStatus, PreviewEvent)]
            },
        },
    },
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/generate_image"): Operation(
        "Ask for an image",
        description="Only model_name and prompt are required; the model's own defaults fill the rest. "
        "`GET /models` says what each model takes. A task that ends without an image is answered with its error "
        "where the client waited for the image itself.",
        parameters=[
            _PREFER,
            _header("Accept", "With `image/*` and `Prefer: wait`, a finished wait is answered by the image itself."),
            _header("Idempotency-Key", "The same key and body gives the same task, however often it is sent."),
        ],
        request={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(model=GenerateRequest.__name__)},
                    "example": _REQUEST_EXAMPLE,
                }
            },
        },
        answers={
            "202": _json("The task is accepted, and kept until it ends.", TaskStatus),
            "200": {
                "description": "The task has ended while the client waited, or it is an earlier one that has ended.",
                "content": {**_json("", TaskStatus)["content"], **_image("")["content"]},
            },
        },
        errors=_SUBMIT_ERRORS,
        errors_with_keys=_KEY_ERRORS | {e.NotAllowedByKey},
    ),
    ("get", "/check_status/{task_id}"): Operation(
        "Where does my task stand?",
        parameters=[_TASK_ID, _PREFER],
        answers={"200": _json("Where it stands.", TaskStatus)},
        errors=_LOOKUP_ERRORS | {e.TooManyWaits},
    ),
    ("get", "/get_image/{task_id}"): Operation(
        "The image",
        description="Its parameters are in its metadata: PNG text as the Stable Diffusion web tools read it, EXIF "
        "for the other formats. Range, If-None-Match and HEAD work as for a file.",
        parameters=[_TASK_ID, _INDEX],
        answers={
            "200": _image("The image."),
            "206": _image("The bytes that Range names."),
            "304": {"description": "The client has it already."},
        },
        errors=_LOOKUP_ERRORS | _IMAGE_ERRORS | {e.InvalidRequest},
    ),
    ("get", "/preview/{task_id}"): Operation(
        "The newest preview of a running task",
        description="A small JPEG of the first image as it is now, at most 8 KB and one a second, for a task that was "
        "submitted with `previews: true`.",
        parameters=[_TASK_ID],
        answers={
            "200": {
                "description": "The preview.",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
        errors=_LOOKUP_ERRORS | {e.NoPreview},
    ),
    ("post", "/cancel_task/{task_id}"): Operation(
        "Cancel",
        description="A queued task ends at once, a running one at its next step.",
        parameters=[_TASK_ID],
        answers={
            "202": _json("The cancel is on its way.", TaskStatus),
            "200": _json("It is canceled already.", TaskStatus),
        },
        errors=_LOOKUP_ERRORS | {e.AlreadyEnded},
    ),
    ("get", "/events/{task_id}"): Operation(
        "The task's life as server-sent events",
        description="`progress` at a step, `status` at any other change, `end` at the last one; each carries the "
        "status document. A task that asked for previews also sends each new one as a `preview` event.",
        parameters=[_TASK_ID],
        answers={
            "200": {"description": "The events.", "content": {"text/event-stream": {"itemSchema": _EVENT_SCHEMA}}}
        },
        errors=_LOOKUP_ERRORS | {e.TooManyStreams},
    ),
    ("get", "/models"): Operation(
        "What each model can do now", answers={"200": _json("One entry for every name.", ModelList)}, errors=frozenset()
    ),
    ("get", "/scale/{model}"): Operation(
        "How many runners does this model need?",
        description="For an autoscaler: the queued and running tasks of all users, the same at every gateway. "
        "`runners_wanted` is 0 only while there is no task.",
        parameters=[_MODEL],
        answers={"200": _json("Its unfinished tasks, and the runners they need.", ModelScale)},
        errors=frozenset({e.UnknownModel, e.QueueUnavailable, e.StartingUp}),
        errors_with_keys=_KEY_ERRORS | {e.NotAllowedByKey},
    ),
}


def document(*, keys: bool = False) -> dict[str, Any]:
    """The OpenAPI document; `keys`: whether the routes ask for an API key."""
    _, schemas = models_json_schema(
        [
            (GenerateRequest, "validation"),
            (TaskStatus, "serialization"),
            (ModelList, "serialization"),
            (ModelScale, "serialization"),
            (PreviewEvent, "serialization"),
            (Problem, "serialization"),
        ],
        ref_template=_REF,
    )
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = operation.describe(keys=keys)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1", "description": _DESCRIPTION},
        "paths": paths,
        "components": {**({"securitySchemes": _KEY_SCHEMES} if keys else {}), "schemas": schemas["$defs"]},
    }


def install(app: FastAPI, *, keys: bool) -> None:
    """Let the app serve the document."""
    schema = document(keys=keys)
    app.openapi = lambda: schema  # type: ignore[method-assign]
