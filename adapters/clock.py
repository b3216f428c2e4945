"""Time: the machine's, and one that tests turn by hand."""

import asyncio
import heapq
import itertools
import time


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until `advance` turns it; sleepers wake in order."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        """Stands at `start` (Unix seconds)."""
        self._start = start
        self._elapsed = 0.0
        self._count = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> float:
        """Unix seconds."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been turned that far."""
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._count), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Turn the clock, waking each sleeper at its time and letting what it starts settle."""
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self._elapsed = end
        await settle()

    def stall(self, seconds: float) -> None:
        """Turn the clock while everything stands still, as for a process that was stopped: who should have woken
        meanwhile wakes with the next `advance`."""
        self._elapsed += seconds
        self._sleepers = sorted((max(at, self._elapsed), count, woken) for at, count, woken in self._sleepers)


async def settle(turns: int = 50) -> None:
    """Let everything that is ready on the event loop run."""
    for _ in range(turns):
        await asyncio.sleep(0)
