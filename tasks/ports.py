"""What the core needs from the outside, as Protocols. adapters/ has a real and an in-memory implementation of each."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from tasks.capabilities import RunnerDescription, ServedModel
from tasks.events import Event, Outcome
from tasks.log import Delivery, Partition, Place, Record, Records
from tasks.runner_api import Frame, Input, RunRequest
from tasks.task import Task


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class TaskLog(Protocol):
    """The log: Kafka, or its twin. Raises QueueUnavailable where it cannot be reached in time."""

    @property
    def events_topic(self) -> str:
        """The full name of the events topic."""
        ...

    async def append_task(self, task: Task) -> Place:
        """Append to the task's lane, acknowledged by all in-sync replicas."""
        ...

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """Append to the events partition that belongs to the task's, acknowledged."""
        ...

    def emit(self, event: Event, partition: Partition) -> None:
        """Append without waiting: for what may be lost (started, progress). Never blocks, never raises."""
        ...

    async def append_card(self, card: ServedModel) -> None:
        """Publish what a model's runners can do."""
        ...

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Append the record, whole, to the dead letters with the reason in its headers."""
        ...

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """Everything of every partition, as the gateway needs it, for ever: all cards first, then lanes and events
        from `offsets`, by (topic, partition). A partition not named there is read from where nothing unfinished is
        missed."""
        ...

    def own(self) -> AsyncGenerator[Delivery, None]:
        """A share of the partitions, as the consumer needs it, for ever. All cards come first, to every owner."""
        ...

    def listen(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """The events of these partitions from these offsets on, whoever owns them, for ever."""
        ...

    def commit(self, lane: str, partition: Partition, offset: int) -> None:
        """Everything below offset is done. Ignored where the partition is not ours or the offset would go back."""
        ...

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """The end offset of each partition of lanes and events, by (topic, partition), as of now."""
        ...

    async def close(self) -> None:
        """Flush what was emitted, commit, leave the group."""
        ...


class ImageStore(Protocol):
    """The store: S3, or its twin. Raises StoreUnavailable where it cannot be reached."""

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """Write one picture, whole or not at all."""
        ...

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        """The picture's bytes, or `(first, last)` of them, both inclusive. Raises UnknownImage, RangeNotSatisfiable."""
        ...

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        """Write the outcome if there is none yet; the answer is the one that stands, this one or the earlier."""
        ...

    async def get_outcome(self, task_id: str) -> Outcome | None:
        """The outcome that stands, or None."""
        ...

    async def delete_images(self, keys: Sequence[str]) -> None:
        """Remove pictures of an attempt that lost."""
        ...

    async def put_once(self, key: str, data: bytes) -> bytes:
        """Write if there is nothing yet; the answer is what stands there."""
        ...


class RunnerClient(Protocol):
    """One runner, reached by HTTP, or its twin. Raises RunnerBusy, RunnerLoading, RunnerLost."""

    @property
    def url(self) -> str:
        """Its address."""
        ...

    async def describe(self) -> RunnerDescription:
        """What its models can do, and how it stands now."""
        ...

    def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        """One attempt, frame by frame; the last frame is End. Closing the iterator cancels the attempt. An Error frame
        is raised as the TaskError it names. `inputs` are the files that the request names."""
        ...
