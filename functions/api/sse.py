"""A task's life as server-sent events: `progress` at a step, `status` at any other change, `end` at the last one."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from functions.status.document import TaskSnapshot, TaskStatus

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""


async def stream(
    changes: AsyncGenerator[TaskSnapshot | None, None], document: Callable[[TaskSnapshot], TaskStatus]
) -> AsyncIterator[bytes]:
    """The events of these changes. A stream that ends before its task ends by telling the client to connect again:
    the gateway is about to end."""
    before: TaskSnapshot | None = None
    async with aclosing(changes):
        async for snapshot in changes:
            if snapshot is None:
                yield b": still here\n\n"
                continue
            yield f"event: {_kind(before, snapshot)}\ndata: {document(snapshot).model_dump_json()}\n\n".encode()
            before = snapshot
    if before is None or not before.state.ended:
        yield b"retry: 1000\n: this gateway is about to end; connect again\n\n"


def _kind(before: TaskSnapshot | None, now: TaskSnapshot) -> str:
    if now.state.ended:
        return "end"
    stepped = before is not None and before.state.attempt == now.state.attempt and before.state.step < now.state.step
    return "progress" if stepped else "status"
