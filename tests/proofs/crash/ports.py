"""Wrappers of every port of one consumer: they count the calls, and at a chosen call the fault happens."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, TypeVar

from tasks.capabilities import RunnerDescription, ServedModel
from tasks.errors import QueueUnavailable, RunnerLost, StoreUnavailable, TaskError
from tasks.events import Event, Outcome
from tasks.log import Assigned, Delivery, Partition, Place, Record, Records, Revoked
from tasks.ports import Clock, GroupMember, ImageStore, RunnerClient, TaskLog
from tasks.preview import Preview
from tasks.runner_api import Frame, Input, RunRequest
from tasks.task import Task

T = TypeVar("T")
Mode = Literal["killed", "frozen", "cut off"]
"""killed: the process does nothing more. frozen: everything stops where it is and continues later. cut off: every call fails
until the process recovers; a call that had its effect already fails too, because its answer is lost."""


@dataclass(frozen=True)
class Point:
    """A moment in the run of a process: before or after the effect of the nth call (from 1) of a name."""

    call: str
    nth: int
    side: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.side} {self.call} #{self.nth}"


class ProcessFault:
    """The fault of one process: it happens at the point, and the process may recover from it later."""

    def __init__(self, point: Point | None, mode: Mode, strike: Callable[[], None]) -> None:
        """`strike` is called at the point, between two steps of the process. `reached`: whether the process came to the
        point. `passed`: the points that it passed. `mute`: events that the process emits are dropped."""
        self.point = point
        self.mode = mode
        self.reached = False
        self.mute = False
        self.passed: list[Point] = []
        self._strike = strike
        self._counts: Counter[str] = Counter()
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._delayed: list[Callable[[], None]] = []

    @property
    def is_away(self) -> bool:
        """Whether the process is a zombie at this moment."""
        return self.mode != "killed" and not self._healthy.is_set()

    def recover(self) -> None:
        """The process continues, first with the calls that were delayed while it was frozen."""
        for effect in self._delayed:
            effect()
        self._delayed.clear()
        self._healthy.set()

    async def call(
        self, name: str, effect: Callable[[], Awaitable[T]], unavailable: type[TaskError] | None = None
    ) -> T:
        """One call with an answer. `unavailable` is the error that it raises while the process is cut off; None: it works."""
        nth = self._count(name)
        await self._pass(Point(name, nth, "before"), unavailable)
        answer = await effect()
        await self._pass(Point(name, nth, "after"), unavailable)
        return answer

    def send(self, name: str, effect: Callable[[], None]) -> None:
        """One call without an answer."""
        nth = self._count(name)
        self._reach(Point(name, nth, "before"))
        if self._healthy.is_set():
            effect()
        elif self.mode == "frozen":
            self._delayed.append(effect)
        self._reach(Point(name, nth, "after"))

    async def stream(
        self, name: Callable[[T], str], items: AsyncGenerator[T, None], unavailable: type[TaskError] | None = None
    ) -> AsyncGenerator[T, None]:
        """A call with many answers: one point before each reaches the process, one after the process handled it."""
        async with aclosing(items):
            async for item in items:
                nth = self._count(name(item))
                await self._pass(Point(name(item), nth, "before"), unavailable)
                yield item
                await self._pass(Point(name(item), nth, "after"), unavailable)

    async def until_healthy(self) -> None:
        """Wait until the process has no fault."""
        await self._healthy.wait()

    def _count(self, name: str) -> int:
        self._counts[name] += 1
        return self._counts[name]

    def _reach(self, point: Point) -> None:
        if self._healthy.is_set():
            self.passed.append(point)
        if point == self.point:
            self.reached = True
            self._healthy.clear()
            self._strike()

    async def _pass(self, point: Point, unavailable: type[TaskError] | None) -> None:
        self._reach(point)
        if self._healthy.is_set():
            return
        if self.mode != "cut off":
            await self._healthy.wait()
        elif unavailable is not None:
            raise unavailable


class FaultyLog:
    """See TaskLog."""

    def __init__(self, log: TaskLog, fault: ProcessFault) -> None:
        self._log = log
        self._fault = fault

    @property
    def events_topic(self) -> str:
        return self._log.events_topic

    async def append_task(self, task: Task) -> Place:
        return await self._fault.call("append task", lambda: self._log.append_task(task), QueueUnavailable)

    async def append_event(self, event: Event, partition: Partition) -> Place:
        name = f"append {event.kind}"
        return await self._fault.call(name, lambda: self._log.append_event(event, partition), QueueUnavailable)

    def emit(self, event: Event, partition: Partition) -> None:
        self._fault.send(f"emit {event.kind}", lambda: None if self._fault.mute else self._log.emit(event, partition))

    def emit_preview(self, preview: Preview) -> None:
        self._fault.send("emit preview", lambda: None if self._fault.mute else self._log.emit_preview(preview))

    async def append_card(self, card: ServedModel) -> None:
        await self._fault.call("append card", lambda: self._log.append_card(card), QueueUnavailable)

    async def dead_letter(self, record: Record, reason: str) -> None:
        await self._fault.call("dead letter", lambda: self._log.dead_letter(record, reason), QueueUnavailable)

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        return self._log.follow(offsets)

    def join(self, group: str, topics: Sequence[str], *, replayed: str | None = None) -> "FaultyMember":
        return FaultyMember(lambda: self._log.join(group, topics, replayed=replayed), self._fault)

    def read_events(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        return self._fault.stream(lambda _: "delivery to an orphan", self._log.read_events(offsets))

    async def events_since(self, times: Mapping[Partition, float]) -> Mapping[Partition, int]:
        return await self._fault.call("events since", lambda: self._log.events_since(times), QueueUnavailable)

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        return await self._fault.call("ends", self._log.ends, QueueUnavailable)

    async def close(self) -> None:
        await self._log.close()


class FaultyMember:
    """See GroupMember. A member that its group has dropped joins again."""

    def __init__(self, join: Callable[[], GroupMember], fault: ProcessFault) -> None:
        self._join = join
        self._member = join()
        self._fault = fault

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        held: set[Partition] = set()
        while True:
            async with aclosing(self._fault.stream(_delivery, self._member.deliveries())) as deliveries:
                async for delivery in deliveries:
                    await self._fault.until_healthy()
                    match delivery:
                        case Assigned():
                            held |= delivery.events_until.keys()
                        case Revoked():
                            held -= delivery.partitions
                    yield delivery
            # The group dropped the member. A client that returns reports its partitions as revoked and joins again.
            await self._fault.until_healthy()
            yield Revoked(frozenset(held))
            held.clear()
            self._member = self._join()

    def commit(self, topic: str, partition: Partition, offset: int) -> None:
        self._fault.send("commit", lambda: self._member.commit(topic, partition, offset))

    async def close(self) -> None:
        await self._member.close()


class FaultyStore:
    """See ImageStore."""

    def __init__(self, store: ImageStore, fault: ProcessFault) -> None:
        self._store = store
        self._fault = fault

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        await self._fault.call("put image", lambda: self._store.put_image(key, data, content_type), StoreUnavailable)

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        return await self._fault.call("get image", lambda: self._store.get_image(key, byte_range), StoreUnavailable)

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        return await self._fault.call("put outcome", lambda: self._store.put_outcome(outcome), StoreUnavailable)

    async def get_outcome(self, task_id: str) -> Outcome | None:
        return await self._fault.call("get outcome", lambda: self._store.get_outcome(task_id), StoreUnavailable)

    async def delete_images(self, keys: Sequence[str]) -> None:
        await self._fault.call("delete images", lambda: self._store.delete_images(keys), StoreUnavailable)

    async def put_once(self, key: str, data: bytes) -> bytes:
        return await self._fault.call("put once", lambda: self._store.put_once(key, data), StoreUnavailable)


class FaultyRunner:
    """See RunnerClient. The fault is the consumer's, not the runner's: a runner whose consumer died sees the connection close."""

    def __init__(self, runner: RunnerClient, fault: ProcessFault) -> None:
        self._runner = runner
        self._fault = fault

    @property
    def url(self) -> str:
        return self._runner.url

    async def describe(self) -> RunnerDescription:
        return await self._fault.call("describe", self._runner.describe, RunnerLost)

    async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        await self._fault.call("run", _nothing, RunnerLost)
        frames = self._fault.stream(lambda frame: f"frame {frame.kind}", self._runner.run(request, inputs), RunnerLost)
        async with aclosing(frames):
            async for frame in frames:
                yield frame


class FaultyClock:
    """See Clock."""

    def __init__(self, clock: Clock, fault: ProcessFault) -> None:
        self._clock = clock
        self._fault = fault

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._fault.call("sleep", lambda: self._clock.sleep(seconds))


def _delivery(delivery: Delivery) -> str:
    return f"delivery of {type(delivery).__name__.lower()}"


async def _nothing() -> None:
    return
