"""A task's life as server-sent events: `status` at every change, `end` with the last one."""

import asyncio
import json
from collections.abc import AsyncIterator

from functions.status.status import Status

HEARTBEAT_SECONDS = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""


async def stream(status: Status, task_id: str, heartbeat: float = HEARTBEAT_SECONDS) -> AsyncIterator[bytes]:
    """The events, until the task has ended."""
    with status.follower.watching(task_id) as changed:
        while True:
            known = await status.get(task_id)
            kind = "end" if known.state.ended else "status"
            yield f"event: {kind}\ndata: {json.dumps(status.document(known))}\n\n".encode()
            if known.state.ended:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat)
                except TimeoutError:
                    yield b": still here\n\n"
            changed.clear()
