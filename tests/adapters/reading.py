"""Reads a log's deliveries beside the test, so that the test can wait for what it expects to have arrived."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from tasks.log import Assigned, Delivery, Partition, Record, Records, Revoked

DEADLINE = 30.0


class Reading:
    """All deliveries so far."""

    def __init__(self) -> None:
        """None yet."""
        self.seen: list[Delivery] = []
        self._more = asyncio.Event()

    async def take(self, deliveries: AsyncGenerator[Delivery, None]) -> None:
        """Read for ever."""
        async with aclosing(deliveries):
            async for delivery in deliveries:
                self.seen.append(delivery)
                self._more.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; fail at the deadline."""
        async with asyncio.timeout(DEADLINE):
            while not holds():
                self._more.clear()
                await self._more.wait()

    @property
    def records(self) -> list[Record]:
        """All records so far."""
        return [record for one in self.seen if isinstance(one, Records) for record in one.records]

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a kind so far."""
        return [record for record in self.records if record.kind == kind]

    @property
    def owned(self) -> set[Partition]:
        """The partitions held after all deliveries so far."""
        held: set[Partition] = set()
        for one in self.seen:
            if isinstance(one, Assigned):
                held |= one.events_until.keys()
            elif isinstance(one, Revoked):
                held -= one.partitions
        return held

    @property
    def events_until(self) -> dict[Partition, int]:
        """How far events must be read, by partition, as last told."""
        return {p: end for one in self.seen if isinstance(one, Assigned) for p, end in one.events_until.items()}


@asynccontextmanager
async def reading(deliveries: AsyncGenerator[Delivery, None]) -> AsyncIterator[Reading]:
    """Read until the block is left."""
    made = Reading()
    work = asyncio.ensure_future(made.take(deliveries))
    try:
        yield made
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
