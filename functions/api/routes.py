"""The native face: the API's own routes, errors as problem documents."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from functions.api.caller import Caller
from functions.api.disconnect import until_disconnect
from functions.api.face import Face, FaceParts
from functions.api.gateway import Gateway
from functions.api.headers import joined, single, wait_seconds, wants_image
from functions.api.image_response import INERT, image_response
from functions.api.problems import render_problem
from functions.api.request_body import parse_body, read_body
from functions.api.sse import HEARTBEAT_SECONDS, EventStreams
from functions.status.document import TaskSnapshot
from tasks.errors import InvalidRequest, RangeNotSatisfiable, from_code
from tasks.events import StoredImage
from tasks.task import CONTENT_TYPES, DEFAULT_FORMAT, GenerateRequest

_NO_STORE = {"Cache-Control": "no-store"}
_CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up: no client sees it, but the metrics count it."""


@dataclass(frozen=True)
class NativeLinks:
    """Where this face answers for a task; `base` is PUBLIC_URL, or empty for paths alone."""

    base: str

    def status(self, task_id: str) -> str:
        """See Links."""
        return f"{self.base}/check_status/{task_id}"

    def image(self, task_id: str, index: int | None = None) -> str:
        """See Links."""
        url = f"{self.base}/get_image/{task_id}"
        return url if index is None else f"{url}?index={index}"

    def preview(self, task_id: str) -> str:
        """See Links."""
        return f"{self.base}/preview/{task_id}"


def add_native_face(app: FastAPI, parts: FaceParts) -> None:
    """Add the API's own routes to the app."""
    face = Face(app, parts, render_problem)
    routes = NativeRoutes(parts.gateway, face)
    face.add("POST", "/generate_image", routes.generate_image)
    face.add("GET", "/check_status/{task_id}", routes.check_status)
    face.add("GET", "/get_image/{task_id}", routes.get_image)
    face.add("GET", "/preview/{task_id}", routes.preview)
    face.add("POST", "/cancel_task/{task_id}", routes.cancel_task)
    face.add("GET", "/events/{task_id}", routes.events)
    face.add("GET", "/models", routes.models)
    face.add("GET", "/scale/{model}", routes.scale)


class NativeRoutes:
    """The routes."""

    def __init__(self, gateway: Gateway, face: Face) -> None:
        """Answers from this gateway."""
        self._gateway = gateway
        self._face = face
        self._events = EventStreams(gateway.document)
        self._links = NativeLinks(gateway.settings.public_url)

    async def generate_image(self, request: Request, caller: Caller) -> Response:
        """Submit; with `Prefer: wait` answer when the task has ended, with `Accept: image/*` by the image itself."""
        settings = self._gateway.settings
        body = await read_body(request.headers, request.stream(), settings.body_limit)
        generate_request = parse_body(GenerateRequest, body)
        wait = self._wait(request)
        as_image = wait is not None and wants_image(
            joined(request.headers, "accept"), CONTENT_TYPES[generate_request.image_params.format or DEFAULT_FORMAT]
        )
        key = single(request.headers, "Idempotency-Key") if "idempotency-key" in request.headers else None
        submitted = self._gateway.generate(
            generate_request, caller, wait=wait, idempotency_key=key, traceparent=request.headers.get("traceparent")
        )
        if wait is None:
            snapshot = await submitted
            # A fast task may have ended before its own first answer: only a repeated request is answered 200.
            code = 200 if key is not None and snapshot.state.ended else 202
            return self._answer(snapshot, code, self._location(snapshot))
        waited = await until_disconnect(request, submitted)
        if waited is None:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        headers = self._location(waited) | {"Preference-Applied": f"wait={wait:g}"}
        if as_image and waited.state.ended:
            return await self._image_answer(waited, caller, headers)
        return self._answer(waited, 200 if waited.state.ended else 202, headers)

    async def check_status(self, request: Request, caller: Caller) -> Response:
        """The task's status; with `Prefer: wait` once the task has ended."""
        task_id, wait = request.path_params["task_id"], self._wait(request)
        if wait is None:
            return self._answer(await self._gateway.get(task_id, caller), 200)
        waited = await until_disconnect(request, self._gateway.wait(task_id, caller, wait))
        if waited is None:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        return self._answer(waited, 200, {"Preference-Applied": f"wait={wait:g}"})

    async def get_image(self, request: Request, caller: Caller) -> Response:
        """The image, as a web server gives a file."""
        index = request.query_params.get("index", "0")
        # At most six digits: Python refuses to read a number of thousands of digits.
        if not index.isascii() or not index.isdecimal() or len(index) > 6:
            raise InvalidRequest("index must be a number from 0.", field="index")

        async def answer(image: StoredImage) -> Response:
            try:
                return await image_response(
                    self._gateway,
                    image,
                    head=request.method == "HEAD",
                    if_none_match=joined(request.headers, "if-none-match"),
                    range_header=request.headers.get("range", ""),
                    if_range=request.headers.get("if-range", ""),
                )
            except RangeNotSatisfiable as error:
                return self._face.error(request, error, {"Content-Range": f"bytes */{image.size}"})

        return await self._gateway.image(request.path_params["task_id"], caller, int(index), answer)

    async def preview(self, request: Request, caller: Caller) -> Response:
        """The newest preview of a running task."""
        preview = await self._gateway.preview(request.path_params["task_id"], caller)
        headers = {**_NO_STORE, **INERT, "X-Preview-Step": str(preview.step)}
        return Response(preview.image, 200, headers, preview.content_type)

    async def cancel_task(self, request: Request, caller: Caller) -> Response:
        """Cancel."""
        snapshot = await self._gateway.cancel(request.path_params["task_id"], caller)
        return self._answer(snapshot, 200 if snapshot.state.ended else 202)

    async def events(self, request: Request, caller: Caller) -> Response:
        """The task's changes as server-sent events."""
        task_id = request.path_params["task_id"]
        content: AsyncIterator[bytes] | tuple[()] = ()
        if request.method == "HEAD":
            await self._gateway.get(task_id, caller)
        else:
            changes = await self._gateway.changes(task_id, caller, HEARTBEAT_SECONDS)
            content = self._events.stream(changes)
        return StreamingResponse(content, media_type="text/event-stream", headers=_NO_STORE)

    async def models(self, request: Request, caller: Caller) -> Response:
        """What each model can do."""
        return _json(self._gateway.models(caller), 200, _NO_STORE)

    async def scale(self, request: Request, caller: Caller) -> Response:
        """How many runners a model needs."""
        return _json(await self._gateway.scale(request.path_params["model"], caller), 200, _NO_STORE)

    def _wait(self, request: Request) -> float | None:
        """The seconds of `Prefer: wait`, or None."""
        if "prefer" not in request.headers:
            return None
        return wait_seconds(joined(request.headers, "prefer"), self._gateway.settings.wait_limit)

    def _location(self, snapshot: TaskSnapshot) -> dict[str, str]:
        return {"Location": self._links.status(snapshot.task.task_id)}

    def _answer(self, snapshot: TaskSnapshot, status: int, headers: dict[str, str] | None = None) -> Response:
        return _json(self._gateway.document(snapshot), status, {**_NO_STORE, **(headers or {})})

    async def _image_answer(self, snapshot: TaskSnapshot, caller: Caller, headers: dict[str, str]) -> Response:
        """The first image, or the error the task ended with."""
        if snapshot.outcome is not None and (error := snapshot.outcome.error) is not None:
            raise from_code(error.code, error.message)
        task_id = snapshot.task.task_id
        answer = await self._gateway.image(task_id, caller, 0, lambda image: image_response(self._gateway, image))
        answer.headers.update({**headers, "X-Task-Id": task_id})
        return answer


def _json(content: BaseModel, status: int, headers: dict[str, str]) -> Response:
    return Response(content.model_dump_json(), status, headers, "application/json")
