"""Looks for tasks that the view does not have. Each takes a call of Kafka and one of S3, so callers share them: an id
that is made up must cost the gateway little, however many of them are asked for."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from tasks.events import Outcome
from tasks.ports import Clock, ImageStore

_PAUSE_SECONDS = 0.02
"""Seconds from the end of one shared look to the next."""
_READS_AT_ONCE = 4
"""Outcomes that are read at once, a quarter of the store's threads: the rest stays free for images."""
_REMEMBERED_SECONDS = 5.0
_REMEMBERED_IDS = 10_000


class SharedLook:
    """One look at the log for all callers of a moment."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        """`look` is the call to share."""
        self._look = look
        self._under_way: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Return after a look that began after this call: an earlier one may have missed what the caller has just
        written through another gateway. Raises what the look raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._look_after(self._under_way))
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)  # a caller that hangs up must not end the look of the others

    async def _look_after(self, earlier: "asyncio.Task[None] | None") -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
            await asyncio.sleep(_PAUSE_SECONDS)
        self._under_way, self._next = self._next, None
        await self._look()


class StoredOutcomes:
    """Reads outcomes from the store, each once for all callers of a moment, and remembers for a few seconds which ids
    have none.

    An id that has none gets one only through the log: its task is appended first. The answer that an id is unknown is
    therefore still right as long as the view, which is asked first, has not read its task.
    """

    def __init__(self, store: ImageStore, clock: Clock) -> None:
        """Nothing is remembered yet."""
        self._store = store
        self._clock = clock
        self._reading: dict[str, asyncio.Task[Outcome | None]] = {}
        self._free = asyncio.Semaphore(_READS_AT_ONCE)
        self._missing: OrderedDict[str, float] = OrderedDict()

    async def get(self, task_id: str) -> Outcome | None:
        """The stored outcome of the task, if there is one. To be called after the view has read everything that the log
        holds. Raises StoreUnavailable."""
        since = self._missing.get(task_id)
        if since is not None and self._clock.monotonic() - since < _REMEMBERED_SECONDS:
            return None
        if task_id not in self._reading:
            reading = self._reading[task_id] = asyncio.ensure_future(self._read(task_id))
            reading.add_done_callback(_retrieve)
        return await asyncio.shield(self._reading[task_id])

    async def _read(self, task_id: str) -> Outcome | None:
        try:
            async with self._free:
                outcome = await self._store.get_outcome(task_id)
        finally:
            del self._reading[task_id]
        if outcome is None:
            self._missing[task_id] = self._clock.monotonic()
            self._missing.move_to_end(task_id)
            if len(self._missing) > _REMEMBERED_IDS:
                self._missing.popitem(last=False)
        return outcome


def _retrieve(task: "asyncio.Task[None] | asyncio.Task[Outcome | None]") -> None:
    """Keep asyncio from logging an error that every caller left before it was raised."""
    if not task.cancelled():
        task.exception()
