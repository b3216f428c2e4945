"""Every port of one consumer, wrapped: each call is counted, and at a chosen one the process meets its fate."""

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
"""killed: nothing more is done. frozen: everything stops where it is, and goes on later. cut off: every call fails, and
works again later; what was done is done, its answer lost."""


@dataclass(frozen=True)
class Point:
    """A moment in the life of a process: before or after the effect of the nth call (from 1) of a name."""

    call: str
    nth: int
    side: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.side} {self.call} #{self.nth}"


class Fate:
    """What becomes of one process: well until the point, then struck, and perhaps well again."""

    def __init__(self, point: Point | None, mode: Mode, struck: Callable[[], None]) -> None:
        """`struck` is called at the point, in the middle of whatever the process does. `met` says whether it came to
        that, `passed` by which points it went; of what a `mute` one emits nothing arrives."""
        self.point = point
        self.mode = mode
        self.met = False
        self.mute = False
        self.passed: list[Point] = []
        self._struck = struck
        self._counts: Counter[str] = Counter()
        self._well = asyncio.Event()
        self._well.set()
        self._late: list[Callable[[], None]] = []

    @property
    def away(self) -> bool:
        """Whether it is a zombie just now."""
        return self.mode != "killed" and not self._well.is_set()

    def mend(self) -> None:
        """It goes on, with what it was about to do first."""
        for effect in self._late:
            effect()
        self._late.clear()
        self._well.set()

    async def call(self, name: str, effect: Callable[[], Awaitable[T]], away: type[TaskError] | None = None) -> T:
        """One call with an answer. `away` is what it raises while the process is cut off; None: it is not affected."""
        nth = self._count(name)
        await self._pass(Point(name, nth, "before"), away)
        answer = await effect()
        await self._pass(Point(name, nth, "after"), away)
        return answer

    def tell(self, name: str, effect: Callable[[], None]) -> None:
        """One call without an answer."""
        nth = self._count(name)
        self._meet(Point(name, nth, "before"))
        if self._well.is_set():
            effect()
        elif self.mode == "frozen":
            self._late.append(effect)
        self._meet(Point(name, nth, "after"))

    async def stream(
        self, name: Callable[[T], str], items: AsyncGenerator[T, None], away: type[TaskError] | None = None
    ) -> AsyncGenerator[T, None]:
        """A call with many answers: before each reaches the process, and after it was taken in."""
        async with aclosing(items):
            async for item in items:
                nth = self._count(name(item))
                await self._pass(Point(name(item), nth, "before"), away)
                yield item
                await self._pass(Point(name(item), nth, "after"), away)

    async def well(self) -> None:
        """Wait until nothing is wrong with it."""
        await self._well.wait()

    def _count(self, name: str) -> int:
        self._counts[name] += 1
        return self._counts[name]

    def _meet(self, point: Point) -> None:
        if self._well.is_set():
            self.passed.append(point)
        if point == self.point:
            self.met = True
            self._well.clear()
            self._struck()

    async def _pass(self, point: Point, away: type[TaskError] | None) -> None:
        self._meet(point)
        if self._well.is_set():
            return
        if self.mode != "cut off":
            await self._well.wait()
        elif away is not None:
            raise away


class FatedLog:
    """See TaskLog."""

    def __init__(self, log: TaskLog, fate: Fate) -> None:
        self._log = log
        self._fate = fate

    @property
    def events_topic(self) -> str:
        return self._log.events_topic

    async def append_task(self, task: Task) -> Place:
        return await self._fate.call("append task", lambda: self._log.append_task(task), QueueUnavailable)

    async def append_event(self, event: Event, partition: Partition) -> Place:
        name = f"append {event.kind}"
        return await self._fate.call(name, lambda: self._log.append_event(event, partition), QueueUnavailable)

    def emit(self, event: Event, partition: Partition) -> None:
        self._fate.tell(f"emit {event.kind}", lambda: None if self._fate.mute else self._log.emit(event, partition))

    def emit_preview(self, preview: Preview) -> None:
        self._fate.tell("emit preview", lambda: None if self._fate.mute else self._log.emit_preview(preview))

    async def append_card(self, card: ServedModel) -> None:
        await self._fate.call("append card", lambda: self._log.append_card(card), QueueUnavailable)

    async def dead_letter(self, record: Record, reason: str) -> None:
        await self._fate.call("dead letter", lambda: self._log.dead_letter(record, reason), QueueUnavailable)

    def follow(self, offsets: Mapping[tuple[str, Partition], int]) -> AsyncGenerator[Records, None]:
        return self._log.follow(offsets)

    def join(self, group: str, topics: Sequence[str], *, replayed: str | None = None) -> "FatedMember":
        return FatedMember(lambda: self._log.join(group, topics, replayed=replayed), self._fate)

    def read_events(self, offsets: Mapping[Partition, int]) -> AsyncGenerator[Records, None]:
        return self._fate.stream(lambda _: "hear", self._log.read_events(offsets))

    async def ends(self) -> Mapping[tuple[str, Partition], int]:
        return await self._fate.call("ends", self._log.ends, QueueUnavailable)

    async def close(self) -> None:
        await self._log.close()


class FatedMember:
    """See GroupMember. A member that the group has lost joins again."""

    def __init__(self, join: Callable[[], GroupMember], fate: Fate) -> None:
        self._join = join
        self._member = join()
        self._fate = fate

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        held: set[Partition] = set()
        while True:
            async with aclosing(self._fate.stream(_delivery, self._member.deliveries())) as deliveries:
                async for delivery in deliveries:
                    await self._fate.well()
                    match delivery:
                        case Assigned():
                            held |= delivery.events_until.keys()
                        case Revoked():
                            held -= delivery.partitions
                    yield delivery
            # The group went on without it. A client that comes back says so, and joins again.
            await self._fate.well()
            yield Revoked(frozenset(held))
            held.clear()
            self._member = self._join()

    def commit(self, topic: str, partition: Partition, offset: int) -> None:
        self._fate.tell("commit", lambda: self._member.commit(topic, partition, offset))

    async def close(self) -> None:
        await self._member.close()


class FatedStore:
    """See ImageStore."""

    def __init__(self, store: ImageStore, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        await self._fate.call("put image", lambda: self._store.put_image(key, data, content_type), StoreUnavailable)

    async def get_image(self, key: str, byte_range: tuple[int, int | None] | None = None) -> bytes:
        return await self._fate.call("get image", lambda: self._store.get_image(key, byte_range), StoreUnavailable)

    async def put_outcome(self, outcome: Outcome) -> Outcome:
        return await self._fate.call("put outcome", lambda: self._store.put_outcome(outcome), StoreUnavailable)

    async def get_outcome(self, task_id: str) -> Outcome | None:
        return await self._fate.call("get outcome", lambda: self._store.get_outcome(task_id), StoreUnavailable)

    async def delete_images(self, keys: Sequence[str]) -> None:
        await self._fate.call("delete images", lambda: self._store.delete_images(keys), StoreUnavailable)

    async def put_once(self, key: str, data: bytes) -> bytes:
        return await self._fate.call("put once", lambda: self._store.put_once(key, data), StoreUnavailable)


class FatedRunner:
    """See RunnerClient. The process, not the runner, has the fate: a runner whose consumer is gone sees it hang up."""

    def __init__(self, runner: RunnerClient, fate: Fate) -> None:
        self._runner = runner
        self._fate = fate

    @property
    def url(self) -> str:
        return self._runner.url

    async def describe(self) -> RunnerDescription:
        return await self._fate.call("describe", self._runner.describe, RunnerLost)

    async def run(self, request: RunRequest, inputs: Sequence[Input] = ()) -> AsyncGenerator[Frame, None]:
        await self._fate.call("run", _nothing, RunnerLost)
        frames = self._fate.stream(lambda frame: f"frame {frame.kind}", self._runner.run(request, inputs), RunnerLost)
        async with aclosing(frames):
            async for frame in frames:
                yield frame


class FatedClock:
    """See Clock."""

    def __init__(self, clock: Clock, fate: Fate) -> None:
        self._clock = clock
        self._fate = fate

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._fate.call("sleep", lambda: self._clock.sleep(seconds))


def _delivery(delivery: Delivery) -> str:
    return f"delivery of {type(delivery).__name__.lower()}"


async def _nothing() -> None:
    return
