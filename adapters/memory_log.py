"""The in-memory twin of the log: one broker, shared by as many logs (processes) as a test needs."""

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from tasks.capabilities import ServedModel
from tasks.errors import QueueUnavailable
from tasks.events import Event, event_key
from tasks.log import Assigned, Delivery, Partition, Place, Record, RecordKind, Records, Revoked
from tasks.ports import Clock
from tasks.preview import Preview
from tasks.task import Task

EVENTS, MODELS, PREVIEWS, DEAD_LETTERS = "events", "models", "previews", "dead_letter"
_KINDS: Mapping[str, RecordKind] = {EVENTS: "event", MODELS: "card", PREVIEWS: "preview"}


class MemoryBroker:
    """What all processes share: the topics, the groups and their commits. While `down` is set, it refuses every call
    and delivers nothing."""

    def __init__(
        self, lanes: Sequence[str], clock: Clock, partitions: int = 4, consumers: str = "ai_image_gen.consumer"
    ) -> None:
        """Empty topics for these lanes. `consumers` is the consumers' group, from whose commits a follower starts."""
        self.lanes = tuple(lanes)
        self.clock = clock
        self.partitions = partitions
        self.topics: dict[str, dict[Partition, list[Record]]] = defaultdict(lambda: defaultdict(list))
        self.groups: dict[str, list[MemoryMember]] = defaultdict(list)
        self.commits: dict[str, dict[tuple[str, Partition], int]] = defaultdict(dict)
        self.down = False
        self._consumers = consumers
        self._changed = asyncio.Event()

    @property
    def committed(self) -> dict[tuple[str, Partition], int]:
        """The commits of the consumers' group, by (topic, partition)."""
        return self.commits[self._consumers]

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

    def read(self, positions: dict[tuple[str, Partition], int]) -> list[Record]:
        """Every record from these positions on: models first, then events, then lanes. Moves the positions to the
        ends."""
        if self.down:
            return []
        records: list[Record] = []
        for topic, partition in sorted(positions, key=lambda key: (key[0] != MODELS, key[0] != EVENTS, key)):
            new = self.topics[topic][partition][positions[topic, partition] :]
            positions[topic, partition] += len(new)
            records += new
        return records

    def partition_of(self, key: str) -> Partition:
        """The partition of a lane record or a preview with this key."""
        return zlib.crc32(key.encode()) % self.partitions

    def rebalance(self, group: str) -> None:
        """Divide the partitions among the present members of the group, in contiguous ranges."""
        members = self.groups[group]
        for index, member in enumerate(members):
            count = 1 if MODELS in member.topics else self.partitions
            low, high = (count * n // len(members) for n in (index, index + 1))
            member.reassign(frozenset(range(low, high)))
        self.wake()

    def wake(self) -> None:
        """Wake every waiting reader."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait until a record is appended or partitions are assigned."""
        await self._changed.wait()


class MemoryMember:
    """See GroupMember."""

    def __init__(self, log: "MemoryLog", group: str, topics: Sequence[str], replayed: str | None) -> None:
        """Joins when its deliveries are read."""
        self.topics = tuple(topics)
        self.assigned: frozenset[Partition] = frozenset()
        self.withheld: frozenset[str] = frozenset()
        """Topics whose records do not arrive for now, as for a member that lags behind."""
        self._log = log
        self._broker = log.broker
        self._group = group
        self._replayed = replayed
        self._pending: list[Delivery] = []
        self._positions: dict[tuple[str, Partition], int] = {}

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See GroupMember."""
        members = self._broker.groups[self._group]
        self._positions = {(MODELS, 0): 0} if self._replayed else {}
        if models := self._broker.read(self._positions):
            yield Records(models)
        members.append(self)
        self._broker.rebalance(self._group)
        try:
            while self in members:
                if self._pending:
                    yield self._pending.pop(0)
                elif records := self._read():
                    yield Records(records)
                else:
                    await self._broker.changed()
        finally:
            self.leave()

    def reassign(self, partitions: frozenset[Partition]) -> None:
        """Assign exactly these partitions to this member. The replayed topic is always read from its beginning."""
        revoked, added = self.assigned - partitions, partitions - self.assigned
        self.assigned = partitions
        self._positions = {
            (topic, p): at for (topic, p), at in self._positions.items() if topic not in self.topics or p not in revoked
        }
        if revoked:
            self._pending.append(Revoked(revoked))
        if added:
            committed = self._broker.commits[self._group]
            ends = {p: len(self._broker.topics[self._replayed][p]) if self._replayed else 0 for p in added}
            self._pending.append(Assigned(ends))
            self._positions |= {
                (topic, p): 0 if topic == self._replayed else committed.get((topic, p), 0)
                for topic in self.topics
                for p in added
            }

    def commit(self, topic: str, partition: Partition, offset: int) -> None:
        """See GroupMember. The commit is made at once."""
        if partition in self.assigned and not self._broker.down and not self._log.muted:
            committed = self._broker.commits[self._group]
            committed[topic, partition] = max(offset, committed.get((topic, partition), 0))

    def leave(self) -> None:
        """Leave the group, as a closed or a dead process does."""
        members = self._broker.groups[self._group]
        if self in members:
            members.remove(self)
            self.assigned = frozenset()
            self._pending.clear()
            self._broker.rebalance(self._group)

    async def close(self) -> None:
        """See GroupMember."""
        self.leave()

    def _read(self) -> list[Record]:
        positions = {key: at for key, at in self._positions.items() if key[0] not in self.withheld}
        records = self._broker.read(positions)
        self._positions |= positions
        return records


class MemoryLog:
    """See TaskWriter and LogReader: the log of one process."""

    def __init__(self, broker: MemoryBroker) -> None:
        """A client of the broker."""
        self.broker = broker
        self.events_topic = EVENTS
        self.members: list[MemoryMember] = []
        self.muted = False

    async def append_task(self, task: Task) -> Place:
        """See TaskWriter."""
        key = task.model_name
        return self.broker.append(task.topic, self.broker.partition_of(key), key, task.model_dump_json().encode(), {})

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """See TaskWriter."""
        if self.muted:
            raise QueueUnavailable
        return self.broker.append(EVENTS, partition, event_key(event), event.model_dump_json().encode(), {})

    def emit(self, event: Event, partition: Partition) -> None:
        """See TaskWriter."""
        if not self.broker.down and not self.muted:
            self.broker.append(EVENTS, partition, event_key(event), event.model_dump_json().encode(), {})

    def emit_preview(self, preview: Preview) -> None:
        """See TaskWriter."""
        if not self.broker.down and not self.muted:
            key = preview.task_id
            self.broker.append(PREVIEWS, self.broker.partition_of(key), key, preview.model_dump_json().encode(), {})

    async def append_card(self, model: ServedModel) -> None:
        """See TaskWriter."""
        self.broker.append(MODELS, 0, model.model, model.model_dump_json().encode(), {})

    async def dead_letter(self, record: Record, reason: str) -> None:
        """See TaskWriter."""
        headers = {**record.headers, "kafka_dlt-exception-message": reason.encode()}
        self.broker.append(DEAD_LETTERS, 0, record.key, record.value, headers)

    async def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """See LogReader."""
        positions = {(MODELS, 0): 0}
        if models := self.broker.read(positions):
            yield Records(models)
        starts = dict(offsets)
        for topic in (EVENTS, *self.broker.lanes):
            for partition in range(self.broker.partitions):
                starts.setdefault((topic, partition), self.broker.committed.get((topic, partition), 0))
        ends = {(PREVIEWS, p): len(self.broker.topics[PREVIEWS][p]) for p in range(self.broker.partitions)}
        yield Records((), starts)
        async with aclosing(self._read_on(positions | starts | ends)) as batches:
            async for records in batches:
                yield records

    def read_events(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """See LogReader."""
        return self._read_on({(EVENTS, partition): offset for partition, offset in offsets.items()})

    def join(self, group: str, topics: Sequence[str], *, replayed: str | None = None) -> MemoryMember:
        """See LogReader."""
        if unknown := set(topics) - {EVENTS, MODELS, PREVIEWS, *self.broker.lanes}:
            raise ValueError(f"not topics of the log: {', '.join(sorted(unknown))}")
        if replayed is not None and replayed not in topics:
            raise ValueError(f"{replayed} is not among the topics to read")
        member = MemoryMember(self, group, topics, replayed)
        self.members.append(member)
        return member

    async def events_since(self, times: Mapping[Partition, float]) -> Mapping[Partition, int]:
        """See LogReader."""
        if self.broker.down:
            raise QueueUnavailable(retry_after=1)
        topic = self.broker.topics[EVENTS]
        return {
            partition: sum(record.timestamp < time for record in topic[partition]) for partition, time in times.items()
        }

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """See LogReader."""
        if self.broker.down:
            raise QueueUnavailable(retry_after=1)
        return {
            (topic, partition): len(self.broker.topics[topic][partition])
            for topic in (*self.broker.lanes, EVENTS)
            for partition in range(self.broker.partitions)
        }

    def leave(self) -> None:
        """Leave every group, as a closed or a dead process does."""
        for member in self.members:
            member.leave()

    def mute(self) -> None:
        """From now on nothing that this process writes or commits arrives, as after its death or a cut connection."""
        self.muted = True

    async def close(self) -> None:
        """See TaskLog."""
        self.leave()

    async def _read_on(self, positions: dict[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        while True:
            if records := self.broker.read(positions):
                yield Records(records)
            else:
                await self.broker.changed()
