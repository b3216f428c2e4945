"""The values that a reader of the log receives. They are the same for Kafka and for its in-memory twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

RecordKind = Literal["task", "event", "card", "preview"]
Partition = int
CLOCK_SKEW_SECONDS = 60.0
"""How far the clocks of two brokers may differ: append times of two partitions are compared."""


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a record in the log. `topic` is the full topic name."""

    topic: str
    partition: Partition
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `timestamp` is the time at which the broker appended it, in Unix seconds."""

    kind: RecordKind
    place: Place
    timestamp: float
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of records, in log order within each partition.

    `starts` is only set once by `LogReader.follow`, before the first record of a lane or of events: the offset at which
    reading begins, by (topic, partition).
    """

    records: Sequence[Record]
    starts: Mapping[tuple[str, Partition], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assigned:
    """The group has assigned these partitions to this member. `events_until` has an entry for each of them: the offset
    up to which the member must read the replayed topic before it acts on that partition, because only then it knows
    what has already happened to the records of the partition. 0 if there is nothing to read first."""

    events_until: Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class Revoked:
    """These partitions no longer belong to this member: the group has taken them away."""

    partitions: frozenset[Partition]


Delivery = Records | Assigned | Revoked
