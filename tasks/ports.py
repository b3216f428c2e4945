"""The ports: what the service needs from outside, as Protocols. adapters/ has two implementations of each: a real one,
and an in-memory twin for tests. The twins of the log, the store and the runner pass the same tests as the real ones."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from tasks.capabilities import RunnerDescription, ServedModel
from tasks.events import Event, Outcome
from tasks.log import Delivery, Partition, Place, Record, Records
from tasks.preview import Preview
from tasks.runner_api import Frame, Input, RunRequest
from tasks.task import Task


class Clock(Protocol):
    """Time. Tests use a clock that they advance themselves."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds since any fixed moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        ...


class TaskWriter(Protocol):
    """The writing side of the log. An awaited method returns when all in-sync replicas have the record; it raises
    QueueUnavailable if Kafka does not confirm that in time. The record may be in the log nevertheless."""

    async def append_task(self, task: Task) -> Place:
        """Append the task to its lane. Raises BodyTooLarge if the record would be larger than RECORD_LIMIT."""
        ...

    async def append_event(self, event: Event, partition: Partition) -> Place:
        """Append the event to this partition of the events topic: the partition number of the event's task."""
        ...

    def emit(self, event: Event, partition: Partition) -> None:
        """Append an event that may be lost (started, progress), without waiting. Never blocks, never raises."""
        ...

    def emit_preview(self, preview: Preview) -> None:
        """Send a preview to the processes that follow the log now. Never blocks, never raises; it may be lost."""
        ...

    async def append_card(self, model: ServedModel) -> None:
        """Publish what the runners of a model can do. This replaces what was published about the model before."""
        ...

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Append the whole record to the dead letter topic, with the reason in its headers."""
        ...


class GroupMember(Protocol):
    """One member of a consumer group. The group shares the partitions among its members and keeps their commits."""

    def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """Join the group, then yield what it assigns and revokes, and the records of the assigned partitions, without
        end. Closing the generator leaves the group."""
        ...

    def commit(self, topic: str, partition: Partition, offset: int) -> None:
        """Everything below the offset is done: the next owner of the partition starts there. Only notes the offset,
        which is sent within a second or when the member leaves. Ignored if the partition is not assigned to this
        member, or if the offset is lower than the committed one."""
        ...

    async def close(self) -> None:
        """Send the noted commits and leave the group. The partitions go to other members at once."""
        ...


class LogReader(Protocol):
    """The reading side of the log. A reader waits while Kafka is unavailable and then goes on."""

    @property
    def events_topic(self) -> str:
        """The full name of the events topic."""
        ...

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        """Read every partition of every topic, without a group and without end: first all models, then lanes and events
        from `offsets`, by (topic, partition). A partition that is not in `offsets` is read from where no unfinished
        task is missed: a lane from the consumers' commit, events from VIEW_HOURS ago. Previews are delivered from now
        on, if their topic exists when the reading begins."""
        ...

    def read_events(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        """Read these partitions of the events topic from these offsets, without a group and without end."""
        ...

    def join(self, group: str, topics: Sequence[str], *, replayed: str | None = None) -> GroupMember:
        """A member of the group, which joins when its deliveries are read.

        All members name the same topics, which must have the same number of partitions: partition p of every topic is
        then assigned to the same member. A partition is read from the group's commit; a new group starts at the
        beginning. A record is delivered at least once: a record at or above the commit is delivered again after a
        restart or to the next owner of its partition.

        `replayed` is how consumers read: one of `topics` whose records say what happened to the records of the other
        topics, in the same partition number. It has no commits. On assignment it is read again from before the oldest
        record that is not committed, and `Assigned.events_until` says up to where it must be read before the member
        acts. All models are delivered before anything is assigned. Without `replayed`, no models are delivered.

        Raises ValueError if a topic is not one of the log's, or if `replayed` is not in `topics`.
        """
        ...

    async def events_since(self, times: Mapping[Partition, float]) -> Mapping[Partition, int]:
        """For each of these partitions of the events topic, the offset of the first event that was appended at or after
        its time (Unix seconds); the end of the partition if there is none. Raises QueueUnavailable if Kafka does not
        answer in time."""
        ...

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        """The current end offset of each partition of lanes and events, by (topic, partition). Raises QueueUnavailable
        if Kafka does not answer in time."""
        ...


class TaskLog(TaskWriter, LogReader, Protocol):
    """Both sides of the log, for a process that writes and reads: Kafka or its twin, one object for a process."""

    async def close(self) -> None:
        """Leave every group and flush what was emitted."""
        ...


class ImageStore(Protocol):
    """The object store: S3 or its twin. Every method raises StoreUnavailable if the store does not answer in time."""

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """Write one image, whole or not at all."""
        ...

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        """The image's bytes. `byte_range` is (first, last), both inclusive; last None: to the end. Raises UnknownImage,
        and RangeNotSatisfiable if the range begins behind the end."""
        ...

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        """Write the outcome if its task has none yet. Returns the stored outcome: this one, or the earlier one. Raises
        StoreUnavailable if this version cannot read the earlier one."""
        ...

    async def get_outcome(self, task_id: str) -> Outcome | None:
        """The stored outcome, or None. Raises StoreUnavailable if this version cannot read it."""
        ...

    async def delete_images(self, keys: Sequence[str]) -> None:
        """Delete images of an attempt whose outcome was not stored. A missing image is no error."""
        ...

    async def put_once(self, key: str, data: bytes) -> bytes:
        """Write the object if there is none of this name yet. Returns the stored bytes: these, or the earlier ones."""
        ...

    async def check_reachable(self) -> None:
        """Return if the store can be reached and its bucket exists. Reads nothing that is secret."""
        ...


class RunnerClient(Protocol):
    """One runner, reached by HTTP, or its twin. Raises RunnerBusy, RunnerLoading, RunnerLost, and
    RunnerUnavailable where the runner refuses this consumer."""

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
