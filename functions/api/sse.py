"""A task's life as server-sent events: `progress` at a step, `preview` at a new preview, `status` at any other change,
`end` at the last one."""

import base64
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from pydantic import BaseModel, Field

from functions.status.document import TaskSnapshot, TaskStatus
from tasks.preview import Preview

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""
_SHARED = 256
"""Tasks whose newest event is kept, at most some KB each."""

T = TypeVar("T")


class EventStreams:
    """The event streams of a gateway. What an event says is made once for all listeners of its task."""

    def __init__(self, document: Callable[[TaskSnapshot], TaskStatus]) -> None:
        """`document` makes the status document of a snapshot."""
        self._documents = _SharedJson(document)
        self._previews = _SharedJson(PreviewEvent.of)

    async def stream(self, changes: AsyncGenerator[TaskSnapshot | Preview | None, None]) -> AsyncIterator[bytes]:
        """The events of these changes. A stream that ends before its task ends by telling the client to connect again:
        the gateway is about to end."""
        before: TaskSnapshot | None = None
        async with aclosing(changes):
            async for change in changes:
                match change:
                    case None:
                        yield b": still here\n\n"
                    case Preview():
                        yield _event("preview", self._previews.json(change.task_id, change))
                    case TaskSnapshot():
                        yield _event(_kind(before, change), self._documents.json(change.task.task_id, change))
                        before = change
        if before is None or not before.state.ended:
            yield b"retry: 1000\n: this gateway is about to end; connect again\n\n"


class _SharedJson(Generic[T]):
    """The newest JSON of each task that has listeners. They are all given the same object of a snapshot or preview."""

    def __init__(self, make: Callable[[T], BaseModel]) -> None:
        """`make` makes the data of an event."""
        self._make = make
        self._newest: OrderedDict[str, tuple[T, str]] = OrderedDict()

    def json(self, task_id: str, value: T) -> str:
        """The data of the event for this value."""
        newest = self._newest.get(task_id)
        if newest is not None and newest[0] is value:
            return newest[1]
        text = self._make(value).model_dump_json()
        self._newest[task_id] = value, text
        self._newest.move_to_end(task_id)
        if len(self._newest) > _SHARED:
            self._newest.popitem(last=False)
        return text


class PreviewEvent(BaseModel):
    """The data of a `preview` event."""

    task_id: str = Field(description="The task's id.")
    step: int = Field(description="The step after which it was drawn.")
    steps: int = Field(description="Steps in all.")
    content_type: str = Field(description="The media type of the image.")
    image: str = Field(description="The image, at most 8 KB, as base64.")

    @classmethod
    def of(cls, preview: Preview) -> "PreviewEvent":
        """The event of this preview."""
        image = base64.b64encode(preview.image).decode()
        return cls(image=image, **preview.model_dump(include={"task_id", "step", "steps", "content_type"}))


def _event(kind: str, data: str) -> bytes:
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _kind(before: TaskSnapshot | None, now: TaskSnapshot) -> str:
    if now.state.ended:
        return "end"
    stepped = before is not None and before.state.attempt == now.state.attempt and before.state.step < now.state.step
    return "progress" if stepped else "status"
