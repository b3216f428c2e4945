"""A whole service on twins: one broker, one store, runners, and consumers that tests start, stop and kill."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from adapters.clock import ManualClock, settle
from adapters.memory_log import EVENTS, MemoryBroker, MemoryLog
from adapters.memory_runner import MemoryRunner
from adapters.memory_store import MemoryStore
from config.settings import Settings
from functions.consume.consumer import Consumer, build_consumer
from tasks.accept import accept
from tasks.capabilities import ServedModel
from tasks.events import CancelRequested, Event, Outcome, Started, parse_event
from tasks.log import Place
from tasks.task import GenerateRequest, Task

SETTINGS = Settings()
LANES = SETTINGS.lane_names


def card(model: str = "sd-mini", **more: object) -> ServedModel:
    """A runner card with room for two default pictures at once."""
    fields: dict[str, object] = {
        "model": model,
        "family": "stable_diffusion",
        "width": 64,
        "height": 64,
        "size_multiple": 8,
        "min_side": 32,
        "max_side": 256,
        "max_pixels": 256 * 256,
        "steps": 10,
        "max_steps": 100,
        "guidance_scale": 5.0,
        "schedulers": ("euler",),
        "default_scheduler": "euler",
        "loras": ("night",),
        "max_prompt_length": 1000,
        "pixel_budget": 2 * 64 * 64,
        "seconds_per_megapixel_step": 10.0,
    }
    return ServedModel.model_validate(fields | more)


@dataclass
class Running:
    """One consumer process. `work` is its `Consumer.run`."""

    log: MemoryLog
    consumer: Consumer
    work: "asyncio.Task[None]"

    @property
    def working(self) -> bool:
        """Whether it runs and was not asked to stop."""
        return not self.work.done() and not self.consumer.stop_requested.is_set()

    async def kill(self) -> None:
        """End it as kill -9 does: nothing it writes arrives any more, its tasks stop where they are."""
        self.log.mute()
        while not self.work.done():
            self.work.cancel()
            await settle(5)
        self.log.leave()
        await settle()

    async def stop(self, grace: float = 30.0) -> None:
        """End it as SIGTERM does, with so many seconds of grace."""
        self.consumer.stop(grace)
        await self.work


@dataclass
class World:
    """Everything outside the consumers."""

    clock: ManualClock = field(default_factory=ManualClock)
    store: MemoryStore = field(default_factory=MemoryStore)
    runners: dict[str, MemoryRunner] = field(default_factory=dict)
    cards: dict[str, ServedModel] = field(default_factory=dict)
    """By model: what a submit is checked against."""
    consumers: list[Running] = field(default_factory=list)
    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        """A broker, and one runner of sd-mini."""
        self.broker = MemoryBroker(LANES, self.clock)
        self.client = MemoryLog(self.broker)
        self.add_runner()

    def add_runner(
        self, url: str = "memory://1", capabilities: ServedModel | None = None, **more: object
    ) -> MemoryRunner:
        """One more runner, of these capabilities or of those of `card`."""
        capabilities = capabilities or card(**more)  # type: ignore[arg-type]
        self.cards[capabilities.model] = capabilities
        self.runners[url] = MemoryRunner(capabilities, self.clock, url=url)
        return self.runners[url]

    @property
    def runner(self) -> MemoryRunner:
        """The first runner."""
        return next(iter(self.runners.values()))

    async def start(self) -> Running:
        """One more consumer, running, its runners known."""
        log = MemoryLog(self.broker)

        async def addresses() -> Sequence[str]:
            return list(self.runners)

        consumer = build_consumer(
            self.settings,
            task_log=log,
            store=self.store,
            clock=self.clock,
            addresses=addresses,
            connect=lambda url: self.runners[url],
        )
        await consumer.pool.look()
        running = Running(log, consumer, asyncio.create_task(consumer.run()))
        self.consumers.append(running)
        await settle()
        return running

    async def submit(self, **body: object) -> Task:
        """Append a task as the gateway does."""
        task_id = uuid.uuid4().hex
        request = GenerateRequest.model_validate({"model_name": "sd-mini", "prompt": "a red circle"} | body)
        task = accept(request, task_id=task_id, models=self.cards, lanes=LANES, created_at=self.clock.now())
        await self.client.append_task(task)
        await settle()
        return task

    async def raw(self, value: bytes, lane: str = LANES[0]) -> Place:
        """Append any bytes to a lane."""
        place = self.broker.append(lane, self.broker.partition_of("sd-mini"), "sd-mini", value, {})
        await settle()
        return place

    async def cancel(self, task: Task) -> None:
        """Ask for a cancel as the gateway does."""
        event = CancelRequested(task_id=task.task_id, at=self.clock.now())
        await self.client.append_event(event, self.broker.partition_of(task.model_name))
        await settle()

    def events(self, task: Task) -> list[Event]:
        """Every event about the task, in the order of the log."""
        records = [record for records in self.broker.topics[EVENTS].values() for record in records]
        found = [parse_event(record.value) for record in records if record.key.startswith(task.task_id)]
        return [event for event in found if event is not None]

    def started(self, task: Task) -> list[int]:
        """The attempts started."""
        return [event.attempt for event in self.events(task) if isinstance(event, Started)]

    def outcome(self, task: Task) -> Outcome | None:
        """The one outcome that was announced, which must be the stored one and its pictures readable."""
        outcomes = [event for event in self.events(task) if isinstance(event, Outcome)]
        if not outcomes:
            return None
        assert all(one == outcomes[0] for one in outcomes), "two different outcomes were announced"
        stored = self.store.objects[f"tasks/{task.task_id}/outcome.json"]
        assert Outcome.model_validate_json(stored) == outcomes[0]
        assert all(image.key in self.store.objects for image in outcomes[0].images), "a picture is missing"
        return outcomes[0]

    def status(self, task: Task) -> str | None:
        """How the task ended, or None."""
        outcome = self.outcome(task)
        return outcome.status if outcome else None

    def watermark_at_end(self) -> bool:
        """Whether every lane is committed to its end."""
        return all(
            self.broker.committed.get((lane, partition), 0) == len(records)
            for lane in LANES
            for partition, records in self.broker.topics[lane].items()
        )


@contextlib.asynccontextmanager
async def world(**more: object) -> AsyncIterator[World]:
    """A world whose consumers are killed at the end."""
    made = World(**more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        for running in made.consumers:
            await running.kill()
