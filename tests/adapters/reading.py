"""Reads the deliveries of a log beside the test, which can then wait for what it expects to arrive."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from tasks.log import Assigned, Delivery, Partition, Record, Records, Revoked

DEADLINE = 30.0


class Reading:
    """All deliveries so far."""

    def __init__(self) -> None:
        """None yet."""
        self.deliveries: list[Delivery] = []
        self._more = asyncio.Event()

    async def take(self, deliveries: AsyncGenerator[Delivery, None]) -> None:
        """Read without end."""
        async with aclosing(deliveries):
            async for delivery in deliveries:
                self.deliveries.append(delivery)
                self._more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true; fail at the deadline."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._more.clear()
                await self._more.wait()

    @property
    def records(self) -> list[Record]:
        """All records so far."""
        batches = [delivery for delivery in self.deliveries if isinstance(delivery, Records)]
        return [record for batch in batches for record in batch.records]

    def of_kind(self, kind: str) -> list[Record]:
        """All records of a kind so far."""
        return [record for record in self.records if record.kind == kind]

    @property
    def assigned(self) -> set[Partition]:
        """The partitions assigned after all deliveries so far."""
        partitions: set[Partition] = set()
        for delivery in self.deliveries:
            if isinstance(delivery, Assigned):
                partitions |= delivery.events_until.keys()
            elif isinstance(delivery, Revoked):
                partitions -= delivery.partitions
        return partitions

    @property
    def events_until(self) -> dict[Partition, int]:
        """Up to where events must be read, by partition, according to the last assignment of each."""
        assignments = [delivery for delivery in self.deliveries if isinstance(delivery, Assigned)]
        return {p: end for assignment in assignments for p, end in assignment.events_until.items()}


@asynccontextmanager
async def reading(deliveries: AsyncGenerator[Delivery, None]) -> AsyncIterator[Reading]:
    """Read until the block is left."""
    result = Reading()
    work = asyncio.ensure_future(result.take(deliveries))
    try:
        yield result
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
