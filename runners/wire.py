"""The two directions of `POST /run`: reading the request with its inputs, and streaming the frames of the answer."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from runners.batch import Job
from tasks.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from tasks.runner_api import FRAMES, JSON, BrokenFrame, Decoder, Frame, Input, Request, RunRequest

REQUEST_LIMIT = 4 * 1024**2
"""The largest RunRequest, in bytes. A task has at most 1 MiB, the upper limit of RECORD_LIMIT."""
INPUTS_LIMIT = 64 * 1024**2
"""The largest body with inputs, in bytes."""


async def read_run(request: HttpRequest) -> tuple[RunRequest, dict[str, Input]]:
    """The request and the inputs that it names, by name. The body is the RunRequest as JSON. With the content type
    FRAMES it is a stream of frames: the request and then each input. For neither of the two types does a browser send
    the request of another site's page without asking first, which is why no other type is read.

    Raises UnsupportedMediaType, BodyTooLarge and InvalidRequest.
    """
    types = [value.partition(";")[0].strip().lower() for value in request.headers.getlist("content-type")]
    if types not in ([JSON], [FRAMES]):
        raise UnsupportedMediaType(f"The body must be sent as {JSON} or {FRAMES}.")
    if types == [JSON]:
        body = b"".join([piece async for piece in _limited(request, REQUEST_LIMIT)])
        return _matched(_parse(body), [])
    decoder, frames = Decoder(), list[Frame]()
    try:
        async for piece in _limited(request, INPUTS_LIMIT):
            frames += decoder.feed(piece)
    except BrokenFrame as error:
        raise InvalidRequest(f"The body is not a stream of frames: {error}.") from error
    if not frames or not isinstance(frames[0], Request) or not decoder.at_boundary:
        raise InvalidRequest("The body must begin with a request frame and end with a whole frame.")
    if len(frames[0].payload) > REQUEST_LIMIT:
        raise BodyTooLarge(f"The request may have at most {REQUEST_LIMIT} bytes.")
    return _matched(_parse(frames[0].payload), frames[1:])


def _parse(body: bytes) -> RunRequest:
    try:
        return RunRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _matched(request: RunRequest, frames: list[Frame]) -> tuple[RunRequest, dict[str, Input]]:
    """The request and its inputs. Raises InvalidRequest unless exactly the inputs that it names came with it."""
    inputs = {frame.name: frame for frame in frames if isinstance(frame, Input)}
    if len(inputs) != len(frames) or inputs.keys() != set(request.inputs):
        sent = [frame.name if isinstance(frame, Input) else frame.kind for frame in frames]
        raise InvalidRequest(
            f"The request names the inputs {', '.join(request.inputs) or 'none'}; the frames after it are "
            f"{', '.join(sent) or 'none'}.",
            field="inputs",
        )
    return request, inputs


async def _limited(request: HttpRequest, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(f"The body may have at most {limit} bytes.")
        yield piece


class FrameStream(Response):
    """Sends frames as they come, and cancels the task as soon as the caller disconnects."""

    def __init__(self, frames: "asyncio.Queue[bytes | None]", job: Job) -> None:
        """The encoded frames of this task; None ends the answer."""
        super().__init__(media_type=FRAMES)
        self._frames = frames
        self._job = job
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the last frame, or until the caller disconnects."""
        disconnected = asyncio.ensure_future(self._until_disconnect(receive))
        sent = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait((disconnected, sent), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._job.cancel()
            for future in (disconnected, sent):
                future.cancel()
            await asyncio.gather(disconnected, sent, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while (frame := await self._frames.get()) is not None:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _until_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
