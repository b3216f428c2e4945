"""A task's life as server-sent events: `progress` at a step, `preview` at a new preview, `status` at any other change,
`end` at the last one."""

import base64
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from pydantic import BaseModel, Field

from functions.status.document import TaskSnapshot, TaskStatus
from tasks.preview import Preview

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""
_SHARED_DOCUMENTS = 256
"""Tasks whose newest document is kept, a few KB each."""


class SharedDocuments:
    """The status documents in events, as JSON. Each is made once for all listeners of its task."""

    def __init__(self, document: Callable[[TaskSnapshot], TaskStatus]) -> None:
        """`document` makes the status document of a snapshot."""
        self._document = document
        self._newest: OrderedDict[str, tuple[TaskSnapshot, str]] = OrderedDict()

    def json(self, snapshot: TaskSnapshot) -> str:
        """The document of this snapshot. Listeners of one task are given the same snapshot object."""
        task_id = snapshot.task.task_id
        made_of, document = self._newest.get(task_id, (None, ""))
        if made_of is not snapshot:
            document = self._document(snapshot).model_dump_json()
            self._newest[task_id] = snapshot, document
            self._newest.move_to_end(task_id)
            if len(self._newest) > _SHARED_DOCUMENTS:
                self._newest.popitem(last=False)
        return document


async def stream(
    changes: AsyncGenerator[TaskSnapshot | Preview | None, None], documents: SharedDocuments
) -> AsyncIterator[bytes]:
    """The events of these changes. A stream that ends before its task ends by telling the client to connect again:
    the gateway is about to end."""
    before: TaskSnapshot | None = None
    async with aclosing(changes):
        async for change in changes:
            match change:
                case None:
                    yield b": still here\n\n"
                case Preview():
                    yield _event("preview", PreviewEvent.of(change).model_dump_json())
                case TaskSnapshot():
                    yield _event(_kind(before, change), documents.json(change))
                    before = change
    if before is None or not before.state.ended:
        yield b"retry: 1000\n: this gateway is about to end; connect again\n\n"


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
