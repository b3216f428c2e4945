"""Work that goes on while the log is read: attempts, outcomes and dead letters being written, orphans being watched."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """The running work of one consumer."""

    def __init__(self) -> None:
        """Nothing runs."""
        self._work: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._failed = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self._work)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this concurrently with the other work."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    async def failure(self) -> None:
        """Wait until some work fails, and raise its error. The consumer ends then: a new start reads from the log what
        the failed work left undone."""
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    async def idle(self) -> None:
        """Wait until nothing runs."""
        while self._work:
            await asyncio.wait(self._work)

    async def cancel(self) -> None:
        """Cancel all work, also work that is spawned meanwhile, and wait until it has ended."""
        while self._work:
            work = tuple(self._work)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
            self._failed.set()
