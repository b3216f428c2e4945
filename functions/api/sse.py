"""A task's life as server-sent events: `progress` at a step, `status` at any other change, `end` with the last one."""

import asyncio
import json
from collections.abc import AsyncIterator

from functions.status.status import Known, Status

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""


async def stream(status: Status, task_id: str, heartbeat: float = HEARTBEAT_SECONDS) -> AsyncIterator[bytes]:
    """The events, until the task has ended, or the gateway is about to: whoever listens then connects again."""
    before: Known | None = None
    with status.follower.watching(task_id) as changed:
        while not status.follower.closing:
            known = await status.get(task_id)
            kind = _kind(before, known)
            before = known
            yield f"event: {kind}\ndata: {json.dumps(status.document(known))}\n\n".encode()
            if known.state.ended:
                return
            while not changed.is_set():
                try:
                    # Not wait_for: in Python 3.11 it can lose a cancel that comes together with the change.
                    async with asyncio.timeout(heartbeat):
                        await changed.wait()
                except TimeoutError:
                    yield b": still here\n\n"
            changed.clear()
    yield b"retry: 1000\n: this gateway is about to end; connect again\n\n"


def _kind(before: Known | None, now: Known) -> str:
    if now.state.ended:
        return "end"
    stepped = before is not None and before.state.attempt == now.state.attempt and before.state.step < now.state.step
    return "progress" if stepped else "status"
