"""What the log consists of and what a reader of it receives: values, the same for Kafka and for its twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

RecordKind = Literal["task", "event", "card"]
Partition = int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies in the log. `topic` is the full topic name."""

    topic: str
    partition: Partition
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read. `timestamp` is the broker's append time in Unix seconds."""

    kind: RecordKind
    place: Place
    timestamp: float
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of records, in log order within each partition.

    `starts` is set once, before the first lane or event record: the offset at which reading begins, by (topic,
    partition).
    """

    records: Sequence[Record]
    starts: Mapping[tuple[str, Partition], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assigned:
    """This process now owns these partitions. It must not start a task of partition p before it has read the events
    partition up to `events_until[p]`: only then does it know what already happened to its tasks."""

    events_until: Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class Revoked:
    """This process no longer owns these partitions."""

    partitions: frozenset[Partition]


Delivery = Records | Assigned | Revoked
