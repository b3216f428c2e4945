"""What the API says about itself: the OpenAPI document behind /docs and /redoc, and the page of errors."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from tasks.errors import ERRORS, TaskError
from tasks.task import TASK_ID, GenerateRequest

TITLE = "ai-image-gen"
_DESCRIPTION = """Post a prompt, get a picture.

`POST /generate_image` answers at once with a task id; `GET /check_status/{task_id}` says where the task stands and
`GET /get_image/{task_id}` gives the picture. A caller that would rather wait sends `Prefer: wait=60`, and with
`Accept: image/*` the answer *is* the picture. Every error is a problem document (RFC 9457) with a `code`:
[all of them](/docs/errors)."""

_EXAMPLE = {
    "model_name": "sd-mini",
    "prompt": "a red circle on a blue background",
    "negative_prompt": "a green background",
    "image_params": {"width": 128, "height": 128, "steps": 20, "seed": 7},
    "loras": [{"name": "night", "weight": 0.5}],
    "user_id": "ada",
    "topic": "online_task",
}
_ANSWER = {
    "task_id": "4f1c0f6f0d2b4b8f9f0c9f4f1c0f6f0d",
    "status": "queued",
    "position": 0,
    "estimated_seconds": 0.4,
    "progress": {"step": 0, "steps": 20},
    "model_name": "sd-mini",
    "alias": None,
    "topic": "ai_image_gen.online_task",
    "attempt": 0,
    "seed": 7,
    "image_url": None,
    "images": [],
    "error": None,
    "error_message": None,
    "timings": {"queued": None, "loading": None, "generating": None, "storing": None},
    "acceleration": {},
    "status_url": "/check_status/4f1c0f6f0d2b4b8f9f0c9f4f1c0f6f0d",
    "created_at": "2026-11-24T10:00:00.000Z",
    "updated_at": "2026-11-24T10:00:00.000Z",
}
_NULL = {"type": "null"}


def _field(kind: str, description: str, *, nullable: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"anyOf": [{"type": kind}, _NULL]} if nullable else {"type": kind}
    return told | {"description": description}


_STATUS_SCHEMA = {
    "type": "object",
    "required": list(_ANSWER),
    "example": _ANSWER,
    "properties": {
        "task_id": _field("string", "The task's id."),
        "status": {
            "type": "string",
            "enum": ["queued", "running", "completed", "failed", "canceled", "expired"],
            "description": "Where the task stands.",
        },
        "position": _field("integer", "How many tasks are served before it; 0: it is next.", nullable=True),
        "estimated_seconds": _field("number", "Seconds until it is done, as it looks now.", nullable=True),
        "progress": {
            "type": "object",
            "properties": {"step": _field("integer", "Steps done."), "steps": _field("integer", "Steps in all.")},
        },
        "model_name": _field("string", "The model that serves it."),
        "alias": _field("string", "The other name of the model it was asked for by.", nullable=True),
        "topic": _field("string", "The lane."),
        "attempt": _field("integer", "How many attempts were made."),
        "seed": _field("integer", "The seed of the first picture."),
        "image_url": _field("string", "The first picture, once there is one.", nullable=True),
        "images": {"type": "array", "items": {"type": "object"}, "description": "All pictures."},
        "error": {
            "anyOf": [{"type": "object"}, _NULL],
            "description": "`code` and `message`, if it ended without one.",
        },
        "error_message": _field("string", "The message of `error`.", nullable=True),
        "timings": {"type": "object", "description": "Seconds queued, loading, generating and storing."},
        "acceleration": {"type": "object", "description": "What made it faster, as the runner said."},
        "status_url": _field("string", "Where to ask again."),
        "created_at": _field("string", "When it was submitted (RFC 3339)."),
        "updated_at": _field("string", "When it last changed (RFC 3339)."),
    },
}
_EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": ["status", "progress", "end"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Status"},
        },
    },
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": _field("string", "Where the error is explained."),
        "title": _field("string", "The error in a sentence."),
        "status": _field("integer", "The HTTP status."),
        "detail": _field("string", "What it was this time."),
        "code": {"type": "string", "enum": sorted(ERRORS), "description": "The error's stable name."},
        "instance": _field("string", "The path asked for."),
        "field": _field("string", "The field or header that is wrong."),
        "allowed": {"type": "array", "items": {"type": "string"}, "description": "What would have been accepted."},
    },
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}


_ID = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": TASK_ID},
    "description": "The id `POST /generate_image` answered with.",
}
_PREFER = _header("Prefer", "`wait=N`: answer when the task has ended or N seconds (at most 60) have passed.")
_INDEX = {
    "name": "index",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 0, "default": 0},
    "description": "Which picture of the task.",
}


def _json(description: str, schema: str = "Status") -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _picture(description: str) -> dict[str, Any]:
    kinds = ("image/png", "image/jpeg", "image/webp")
    return {
        "description": description,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds},
    }


def _problems(*codes: str) -> dict[str, Any]:
    found: dict[str, list[type[TaskError]]] = {}
    for code in codes:
        found.setdefault(str(ERRORS[code].status), []).append(ERRORS[code])
    schema = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {
            "description": "\n".join(f"- `{error.code()}`: {error.title()}" for error in errors),
            "content": schema,
        }
        for status, errors in found.items()
    }


_SUBMIT_ERRORS = (
    "malformed_body", "not_acceptable", "body_too_large", "unsupported_media_type", "invalid_request", "unknown_model",
    "unknown_lane", "unknown_lora", "unknown_scheduler", "size_not_supported", "too_many_steps", "prompt_too_long",
    "too_many_images", "negative_prompt_not_supported", "idempotency_key_reused", "user_queue_full",
    "queue_full", "queue_unavailable", "store_unavailable", "starting_up",
)  # fmt: skip
_WAIT_ERRORS = ("canceled", "started_too_late", "ran_too_long", "generation_failed", "out_of_memory", "runner_lost")
_READ_ERRORS = ("unknown_task", "queue_unavailable", "store_unavailable", "starting_up")

ROUTES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/generate_image"): {
        "summary": "Ask for a picture",
        "description": "Only model_name and prompt are required; the model's own defaults fill the rest. "
        "`GET /models` says what each model takes.",
        "parameters": [
            _PREFER,
            _header("Accept", "With `image/*` and `Prefer: wait`, a finished wait is answered with the picture."),
            _header("Idempotency-Key", "The same key and body gives the same task, however often it is sent."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/GenerateRequest"},
                    "example": _EXAMPLE,
                }
            },
        },
        "responses": {
            "202": _json("The task is accepted; nothing can lose it now."),
            "200": _json("The task has ended while the caller waited (or is a repeated one that has ended).")
            | {"content": _json("")["content"] | _picture("")["content"]},
            **_problems(*_SUBMIT_ERRORS, *_WAIT_ERRORS),
        },
    },
    ("get", "/check_status/{task_id}"): {
        "summary": "Where does my task stand?",
        "parameters": [_ID, _PREFER],
        "responses": {"200": _json("Where it stands."), **_problems(*_READ_ERRORS)},
    },
    ("get", "/get_image/{task_id}"): {
        "summary": "The picture",
        "description": "Its parameters are in its metadata: PNG text as the Stable Diffusion web tools read it, EXIF "
        "for the other formats. Range, If-None-Match and HEAD work as for a file.",
        "parameters": [_ID, _INDEX],
        "responses": {
            "200": _picture("The picture."),
            "206": _picture("The bytes asked for by Range."),
            "304": {"description": "The caller has it already."},
            **_problems(
                *(*_READ_ERRORS, "unknown_image", "image_not_ready"),
                *("no_image", "range_not_satisfiable", "invalid_request"),
            ),
        },
    },
    ("post", "/cancel_task/{task_id}"): {
        "summary": "Cancel",
        "description": "A queued task ends at once, a running one at its next step.",
        "parameters": [_ID],
        "responses": {
            "202": _json("The cancel is on its way."),
            "200": _json("It is canceled already."),
            **_problems(*_READ_ERRORS, "already_ended"),
        },
    },
    ("get", "/events/{task_id}"): {
        "summary": "The task's life as server-sent events",
        "description": "`progress` at a step, `status` at any other change, `end` with the last one; each carries the "
        "status document.",
        "parameters": [_ID],
        "responses": {
            "200": {"description": "The events.", "content": {"text/event-stream": {"itemSchema": _EVENT_SCHEMA}}},
            **_problems(*_READ_ERRORS),
        },
    },
    ("get", "/models"): {
        "summary": "What can be asked of each model now",
        "responses": {"200": {"description": "One entry a name.", "content": {"application/json": {"schema": {
            "type": "object", "properties": {"models": {"type": "array", "items": {"type": "object"}}}}}}}},
    },
}  # fmt: skip


_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The key as a bearer token."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, as a header."},
}
_KEY_ERRORS = ("key_in_url", "unauthorized")


def _with_key(route: tuple[str, str], told: dict[str, Any]) -> dict[str, Any]:
    errors = _KEY_ERRORS + (("not_allowed_by_key",) if route == ("post", "/generate_image") else ())
    responses = dict(told["responses"])
    for status, answer in _problems(*errors).items():
        before = responses.get(status, {}).get("description")
        responses[status] = answer | {"description": "\n".join(filter(None, (before, answer["description"])))}
    return told | {"responses": responses, "security": [{scheme: []} for scheme in _KEY_SCHEMES]}


def document(*, keys: bool = False) -> dict[str, Any]:
    """The OpenAPI document; `keys`: whether an API key is needed."""
    request = GenerateRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), told in ROUTES.items():
        paths.setdefault(path, {})[method] = _with_key((method, path), told) if keys else told
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1", "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            **({"securitySchemes": _KEY_SCHEMES} if keys else {}),
            "schemas": {
                **request.pop("$defs", {}),
                "GenerateRequest": request,
                "Status": _STATUS_SCHEMA,
                "Problem": _PROBLEM_SCHEMA,
            },
        },
    }


def _errors_page() -> str:
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{error.status}</td><td>{error.title()}</td></tr>'
        for code, error in sorted(ERRORS.items(), key=lambda item: (item[1].status, item[0]))
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{TITLE}: errors</title>"
        "<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}"
        "td,th{padding:.4rem .8rem;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
        "tr:target{background:#ffe9a8}</style>"
        f"<h1>Errors</h1><table><tr><th>code<th>status<th>meaning</tr>{rows}</table>"
    )


def install(app: FastAPI, *, keys: bool) -> None:
    """Let the app serve the document and the page of errors."""
    told = document(keys=keys)
    page = _errors_page()
    app.openapi = lambda: told  # type: ignore[method-assign]

    async def errors(_: Request) -> HTMLResponse:
        return HTMLResponse(page)

    app.add_route("/docs/errors", errors, include_in_schema=False)
