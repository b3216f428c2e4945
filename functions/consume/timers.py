"""Timers: for each purpose and task, the time at which the dispatcher must decide again."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from typing import Any

from tasks.ports import Clock

Key = tuple[str, str]
"""The purpose, and the task id."""


class Timers:
    """One timer per key; setting it again moves it."""

    def __init__(self, clock: Clock) -> None:
        """No timer is set."""
        self._clock = clock
        self._heap: list[tuple[float, int, Key]] = []
        self._times: dict[Key, float] = {}
        self._count = itertools.count()
        self._set = asyncio.Event()

    def set(self, key: Key, at: float) -> None:
        """Make this key due at `at`, on the clock's monotonic time."""
        self._times[key] = at
        if not self._heap or at < self._heap[0][0]:
            self._set.set()
        heapq.heappush(self._heap, (at, next(self._count), key))

    def clear(self, key: Key) -> None:
        """Forget this key's time."""
        self._times.pop(key, None)

    async def due(self) -> AsyncIterator[Key]:
        """Each key when its time has come; never ends."""
        while True:
            self._set.clear()
            while self._heap and self._heap[0][0] <= self._clock.monotonic():
                at, _, key = heapq.heappop(self._heap)
                if self._times.get(key) == at:
                    del self._times[key]
                    yield key
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._set.wait())]
            if self._heap:
                waits.append(asyncio.ensure_future(self._clock.sleep(self._heap[0][0] - self._clock.monotonic())))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
