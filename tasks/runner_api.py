"""The wire between a consumer and a runner: the request of one attempt, and the frames both sides send.

A frame is two lengths (4 bytes each, big endian), a JSON header and a payload. The runner answers with
`accepted, started, step*, preview*, image*, [error], end`; a stream without `end` was cut off. A request with inputs is
sent the same way: a `request` frame, then one `input` frame for each input it names.
"""

import json
import struct
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.task import MAX_SEED, Count, DrawingFields, ImageFormat, ImageParams, Name, Positive

FRAMES = "application/octet-stream"
"""The media type of a stream of frames, in both directions."""
JSON = "application/json"
"""The media type of a request without inputs."""
MAX_HEADER = 64 * 1024
MAX_PAYLOAD = 256 * 1024 * 1024
_LENGTHS = struct.Struct(">II")


def authorization(secret: str) -> str:
    """The Authorization header of a consumer that shares this secret with the runner."""
    return f"Bearer {secret}"


class RunRequest(DrawingFields, ImageParams):
    """One attempt at one task, with nothing left open: the body of the runner's `POST /run`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    attempt: int = 1
    alias: str | None = Field(default=None, description="The other name of the model, under which it takes more sizes.")
    format: ImageFormat = "png"
    metadata: dict[str, str] = Field(default_factory=dict)
    preview: bool = False
    inputs: tuple[Name, ...] = Field(
        default=(), max_length=16, description="The inputs that follow as frames, for example `image` and `mask`."
    )
    requires: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Fields of the task that a runner must understand. A runner that does not refuses the task.",
    )

    @property
    def as_drawn(self) -> Self:
        """The same request at the size at which the model draws."""
        return self.model_copy(update=dict(self.drawn_at)) if self.drawn_at else self


class BrokenFrame(ValueError):
    """The bytes are not a stream of frames."""


MediaType = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+$", max_length=100)]


class FrameFields(BaseModel):
    """What all frames share. The fields are the JSON header; `payload` follows it as raw bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    kind: ClassVar[str]
    payload: bytes = Field(default=b"", exclude=True, repr=False)


class Accepted(FrameFields):
    """The runner accepted the task; `waiting` other tasks are before it."""

    kind = "accepted"
    waiting: Count = 0


class Started(FrameFields):
    """The runner began the task `queued_seconds` after it accepted it."""

    kind = "started"
    queued_seconds: float = 0.0


class Step(FrameFields):
    """`step` of `steps` are done for every image of the task."""

    kind = "step"
    step: Positive
    steps: Positive


class Preview(FrameFields):
    """A small JPEG of the task's first image after `step` steps, as the payload."""

    kind = "preview"
    step: Count


class Image(FrameFields):
    """A finished image file, as the payload; `index` counts the images of the task from 0, sizes are in pixels."""

    kind = "image"
    index: Count
    content_type: MediaType
    width: Positive
    height: Positive
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]


class Error(FrameFields):
    """The attempt failed; `code` names the TaskError. `end` follows."""

    kind = "error"
    code: str
    message: str


class End(FrameFields):
    """The last frame. `seconds_loading` is the time that encoding the prompts took, `seconds_generating` the time since
    the runner began the task, both in seconds."""

    kind = "end"
    seconds_loading: float | None = None
    seconds_generating: float | None = None
    images: Count = 0
    acceleration: dict[str, Any] = Field(default_factory=dict)


class Request(FrameFields):
    """The first frame of a `POST /run` with inputs; the payload is the RunRequest as JSON."""

    kind = "request"


class Input(FrameFields):
    """One input of a task, for example the image to start from; the payload is the file."""

    kind = "input"
    name: Name
    content_type: MediaType


Frame = Accepted | Started | Step | Preview | Image | Error | End | Request | Input
_KINDS: dict[str, type[Frame]] = {
    cls.kind: cls for cls in (Accepted, Started, Step, Preview, Image, Error, End, Request, Input)
}


def encode(frame: FrameFields) -> bytes:
    """The frame as bytes."""
    header = json.dumps({"kind": frame.kind, **frame.model_dump()}, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(header), len(frame.payload)) + header + frame.payload


class Decoder:
    """Cuts a byte stream, which may arrive in pieces of any size, into frames."""

    def __init__(self) -> None:
        """A decoder at the start of a stream."""
        self._buffer = bytearray()

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that `data` completes. A frame of a kind that only a newer version knows is skipped.

        Raises BrokenFrame.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header, payload = _LENGTHS.unpack_from(self._buffer)
            if header > MAX_HEADER or payload > MAX_PAYLOAD:
                raise BrokenFrame(f"a frame of {header}+{payload} bytes is too large")
            begin = _LENGTHS.size + header
            end = begin + payload
            if len(self._buffer) < end:
                return
            frame = _frame(bytes(self._buffer[_LENGTHS.size : begin]), bytes(self._buffer[begin:end]))
            del self._buffer[:end]
            if frame is not None:
                yield frame


def _frame(header: bytes, payload: bytes) -> Frame | None:
    try:
        fields = json.loads(header)
        kind = fields.pop("kind")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BrokenFrame(f"a frame header is not JSON with a kind: {error}") from error
    if not isinstance(kind, str):
        raise BrokenFrame("a frame's kind is not a name")
    cls = _KINDS.get(kind)
    if cls is None:
        return None
    try:
        return cls.model_validate(fields | {"payload": payload})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BrokenFrame(f"a frame of kind {kind}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
