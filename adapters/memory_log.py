"""The log's in-memory twin: one broker, shared by as many logs (processes) as a test needs."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence

from tasks.capabilities import ServedModel
from tasks.errors import QueueUnavailable
from tasks.events import Event, event_key
from tasks.log import Assigned, Delivery, Partition, Place, Record, RecordKind, Records, Revoked
from tasks.ports import Clock
from tasks.task import Task

EVENTS, CARDS, DEAD_LETTERS = "events", "models", "dead_letter"
_KINDS: Mapping[str, RecordKind] = {EVENTS: "event", CARDS: "card"}


class MemoryBroker:
    """What every process sees: the topics, the committed offsets and the group. `down` refuses everybody."""

    def __init__(self, lanes: Sequence[str], clock: Clock, partitions: int = 4) -> None:
        """Empty topics for these lanes."""
        self.lanes = tuple(lanes)
        self.clock = clock
        self.partitions = partitions
        self.topics: dict[str, dict[Partition, list[Record]]] = defaultdict(lambda: defaultdict(list))
        self.committed: dict[tuple[str, Partition], int] = {}
        self.members: list[MemoryLog] = []
        self.down = False
        self._changed = asyncio.Event()

    def append(self, topic: str, partition: Partition, key: str, value: bytes, headers: Mapping[str, bytes]) -> Place:
        """Append one record. Raises QueueUnavailable while the broker is down."""
        if self.down:
            raise QueueUnavailable(retry_after=1)
        records = self.topics[topic][partition]
        place = Place(topic, partition, len(records))
        kind = _KINDS.get(topic, "task")
        records.append(Record(kind, place, self.clock.now(), key, value, headers))
        self.wake()
        return place

    def partition_of(self, key: str) -> Partition:
        """Where a lane record of this key goes."""
        return zlib.crc32(key.encode()) % self.partitions

    def rebalance(self) -> None:
        """Share the partitions out again, in contiguous ranges."""
        for index, member in enumerate(self.members):
            count = len(self.members)
            low, high = (self.partitions * n // count for n in (index, index + 1))
            member.reassign(frozenset(range(low, high)))
        self.wake()

    def wake(self) -> None:
        """Let every reader look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait until something was appended or shared out anew."""
        await self._changed.wait()


class MemoryLog:
    """One process's log."""

    def __init__(self, broker: MemoryBroker) -> None:
        """A client of the broker."""
        self.broker = broker
        self.events_topic = EVENTS
        self.owned: frozenset[Partition] = frozenset()
        self._muted = False
        self._pending: list[Delivery] = []
        self._positions: dict[tuple[str, Partition], int] = {}

    async def append_task(self, task: Task) -> Place:
        """See TaskLog."""
        key = task.model_name
        return self.broker.append(task.topic, self.broker.partition_of(key), key, task.model_dump_json().encode(), {})

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """See TaskLog."""
        if self._muted:
            raise QueueUnavailable
        return self.broker.append(EVENTS, partition, event_key(event), event.model_dump_json().encode(), {})

    def emit(self, event: Event, partition: Partition) -> None:
        """See TaskLog."""
        if not self.broker.down and not self._muted:
            self.broker.append(EVENTS, partition, event_key(event), event.model_dump_json().encode(), {})

    async def append_card(self, card: ServedModel) -> None:
        """See TaskLog."""
        self.broker.append(CARDS, 0, card.model, card.model_dump_json().encode(), {})

    async def dead_letter(self, record: Record, reason: str) -> None:
        """See TaskLog."""
        headers = {**record.headers, "kafka_dlt-exception-message": reason.encode()}
        self.broker.append(DEAD_LETTERS, 0, record.key, record.value, headers)

    async def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """See TaskLog."""
        positions = {(CARDS, 0): 0}
        if cards := self._read(positions):
            yield Records(cards)
        starts = dict(offsets)
        for topic in (EVENTS, *self.broker.lanes):
            for partition in range(self.broker.partitions):
                starts.setdefault((topic, partition), self.broker.committed.get((topic, partition), 0))
        yield Records((), starts)
        positions |= starts
        while True:
            if records := self._read(positions):
                yield Records(records)
            else:
                await self.broker.changed()

    async def own(self) -> AsyncGenerator[Delivery, None]:
        """See TaskLog."""
        self._positions = {(CARDS, 0): 0}
        if cards := self._read(self._positions):
            yield Records(cards)
        self.broker.members.append(self)
        self.broker.rebalance()
        try:
            while self in self.broker.members:
                if self._pending:
                    yield self._pending.pop(0)
                elif records := self._read(self._positions):
                    yield Records(records)
                else:
                    await self.broker.changed()
        finally:
            self.leave()

    async def listen(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """See TaskLog."""
        positions = {(EVENTS, partition): offset for partition, offset in offsets.items()}
        while True:
            if records := self._read(positions):
                yield Records(records)
            else:
                await self.broker.changed()

    def reassign(self, partitions: frozenset[Partition]) -> None:
        """The broker gives this member these partitions."""
        lost, won = self.owned - partitions, partitions - self.owned
        self.owned = partitions
        self._positions = {key: at for key, at in self._positions.items() if key[0] == CARDS or key[1] not in lost}
        if lost:
            self._pending.append(Revoked(lost))
        if won:
            starts = {(lane, p): self.broker.committed.get((lane, p), 0) for lane in self.broker.lanes for p in won}
            self._pending.append(Assigned({p: len(self.broker.topics[EVENTS][p]) for p in won}))
            self._positions |= starts | {(EVENTS, p): 0 for p in won}

    def commit(self, lane: str, partition: Partition, offset: int) -> None:
        """See TaskLog."""
        if partition in self.owned and not self.broker.down and not self._muted:
            key = (lane, partition)
            self.broker.committed[key] = max(offset, self.broker.committed.get(key, 0))

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """See TaskLog."""
        if self.broker.down:
            raise QueueUnavailable(retry_after=1)
        topics = (*self.broker.lanes, EVENTS)
        return {
            (topic, partition): len(self.broker.topics[topic][partition])
            for topic in topics
            for partition in range(self.broker.partitions)
        }

    def leave(self) -> None:
        """Leave the group, as a closed or a dead process does."""
        if self in self.broker.members:
            self.broker.members.remove(self)
            self.owned = frozenset()
            self._pending.clear()
            self.broker.rebalance()

    def mute(self) -> None:
        """From now on nothing this process says arrives: it is dead, or cut off."""
        self._muted = True

    async def close(self) -> None:
        """See TaskLog."""
        self.leave()

    def _read(self, positions: dict[tuple[str, Partition], int]) -> list[Record]:
        if self.broker.down:
            return []
        records: list[Record] = []
        for topic, partition in sorted(positions, key=lambda key: (key[0] != CARDS, key[0] != EVENTS, key)):
            new = self.broker.topics[topic][partition][positions[topic, partition] :]
            positions[topic, partition] += len(new)
            records += new
        return records
