"""The clocks: that of the machine, and its twin, which tests advance by hand."""

import asyncio
import heapq
import itertools
import time


class SystemClock:
    """The clock of the machine. See Clock."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since a fixed moment; never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until a test advances it. Sleepers wake in the order of their times. See Clock."""

    def __init__(self) -> None:
        """Starts in January 2027."""
        self._start = 1_800_000_000.0
        self._elapsed = 0.0
        self._count = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> float:
        """Unix seconds."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has advanced by so many seconds."""
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._count), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Advance the clock step by step: wake each sleeper at its time, then let everything it starts settle."""
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self._elapsed = end
        await settle()

    def stall(self, seconds: float) -> None:
        """Advance the clock without waking any sleeper, as for a process that was stopped. The sleepers whose time has
        come wake at the next `advance`."""
        self._elapsed += seconds
        self._sleepers = sorted((max(at, self._elapsed), count, woken) for at, count, woken in self._sleepers)


async def settle(turns: int = 50) -> None:
    """Let the event loop run everything that is ready, for so many turns."""
    for _ in range(turns):
        await asyncio.sleep(0)
