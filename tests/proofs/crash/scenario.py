"""The scenario on twins with a manual clock, and the promises that are checked at its end."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.clock import ManualClock, settle
from adapters.memory_log import DEAD_LETTERS, MemoryLog
from adapters.memory_runner import image_file
from functions.consume.consumer import build_consumer
from tasks.lease import LEASE_SECONDS
from tasks.object_keys import outcome_key
from tasks.runner_api import RunRequest
from tasks.task import Task
from tests.proofs.crash.ports import FaultyClock, FaultyLog, FaultyRunner, FaultyStore, Mode, Point, ProcessFault
from tests.proofs.crash.story import CARDS, CARDS_WITHOUT_RUNNERS, POISON, Expected, FailingRunner, run_story
from tests.support.world import Running, World

AWAY_SECONDS = 1.5 * LEASE_SECONDS
"""How long a fault lasts: the leases of the process have expired when it recovers."""
LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class FaultCase:
    """Which consumer has which fault at which point.

    `successor_at_once`: another consumer starts at the fault, otherwise after the scenario. `again`: the point at which
    that successor dies too. `mute`: the events that the victim emits are dropped.
    """

    victim: str = "first"
    point: Point | None = None
    mode: Mode = "killed"
    successor_at_once: bool = True
    again: Point | None = None
    mute: bool = False


class ImmediateClock(ManualClock):
    """Moves to the next sleeper as soon as the event loop is idle: twins wait for nothing but the clock."""

    async def advance(self, seconds: float) -> None:
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await until_idle()
        self._elapsed = end
        await until_idle()


async def until_idle() -> None:
    """Let everything that is ready on the event loop run."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    while ready:
        await asyncio.sleep(0)


@dataclass
class TwinScenario(World):
    """A world in which the scenario runs and one consumer has a fault."""

    clock: ManualClock = field(default_factory=ImmediateClock)
    case: FaultCase = FaultCase()
    named: dict[str, tuple[Running, ProcessFault]] = field(default_factory=dict)
    expected: dict[str, Expected] = field(default_factory=dict)
    interrupted: Counter[str] = field(default_factory=Counter)
    """In how many faulty processes each task ran: so many extra attempts are allowed."""
    leaving: set[str] = field(default_factory=set)
    """The tasks that the second consumer ran when it was stopped. It releases those that outlive its grace."""
    violations: list[str] = field(default_factory=list)
    """The promises that did not hold at the end, as sentences."""
    _strikes: list["asyncio.Future[None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cards = {card.model: card for card in CARDS}
        self.runners = {runner.url: runner for runner in (FailingRunner(card, self.clock) for card in CARDS)}

    @property
    def fault(self) -> ProcessFault:
        """The victim's fault."""
        return self.named[self.case.victim][1]

    async def append(self, task: Task) -> None:
        await self.client.append_task(task)
        await settle()

    async def poison(self) -> None:
        await self.raw(POISON)

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def leave(self, name: str) -> None:
        running, fault = self.named[name]
        if fault.reached:
            return
        self.leaving = set(running.consumer.attempts.under_way)
        leaving = asyncio.ensure_future(running.stop(grace=1))
        await settle()
        await self.clock.advance(1.2)
        if not fault.reached:
            await leaving

    async def launch(self, name: str) -> None:
        """Start one more consumer. The victim of the case gets the fault of the case."""
        case, mine = self.case, name == self.case.victim
        point = case.point if mine else case.again if name == "successor" else None
        mode: Mode = case.mode if mine else "killed"
        log = MemoryLog(self.broker)
        fault = ProcessFault(
            point, mode, lambda: self._strikes.append(asyncio.ensure_future(self._strike(running, fault)))
        )
        fault.mute = case.mute and mine

        async def addresses() -> Sequence[str]:
            return list(self.runners)

        consumer = build_consumer(
            self.settings,
            task_log=FaultyLog(log, fault),
            store=FaultyStore(self.store, fault),
            clock=FaultyClock(self.clock, fault),
            addresses=addresses,
            connect=lambda url: FaultyRunner(self.runners[url], fault),
        )
        running = Running(log, consumer, asyncio.create_task(consumer.run()))
        self.consumers.append(running)
        self.named[name] = (running, fault)
        await settle()

    async def _strike(self, running: Running, fault: ProcessFault) -> None:
        leaving = self.leaving if self.case.victim == "second" else set()
        self.interrupted.update({*running.consumer.attempts.under_way, *leaving})
        if fault.mode == "killed":
            await running.kill()
        else:
            running.log.leave()
        if self.case.successor_at_once or self.expected:
            await self.start_successor()
        if fault.mode != "killed":
            await self.clock.sleep(AWAY_SECONDS)
            fault.recover()

    async def start_successor(self) -> None:
        """Start the consumer that takes over. If it dies too, this starts the last one."""
        await self.launch("last" if "successor" in self.named else "successor")

    async def run(self) -> None:
        """The whole scenario, and then until nothing is left to do."""
        for card in CARDS_WITHOUT_RUNNERS:
            await self.client.append_card(card)
        self.expected = await run_story(self)
        if self.fault.reached and not self.case.successor_at_once:
            await self.start_successor()
        waited = 0.0
        while not self.at_rest() and waited < LONGEST_SECONDS:
            await self.clock.advance(1)
            waited += 1

    def at_rest(self) -> bool:
        """Whether nothing more will happen: every task ended, every offset committed, every fault over."""
        away = any(fault.is_away for _, fault in self.named.values())
        busy = any(running.consumer.background.busy for running in self.alive())
        ended = all(outcome_key(task.task.task_id) in self.store.objects for task in self.expected.values())
        return ended and not away and not busy and self.watermark_at_end()

    def broken_promises(self) -> list[str]:
        """The promises that do not hold, as sentences."""
        broken = [f"{name}: {what}" for name, task in self.expected.items() for what in self._broken_for(task)]
        if not self.watermark_at_end():
            broken.append(f"the watermark is at {self.broker.committed}")
        if POISON not in [letter.value for letter in self.broker.topics[DEAD_LETTERS][0]]:
            broken.append("the poison record is not a dead letter")
        for running in self.alive():
            left = [task.task_id for task in running.consumer.view.unfinished()]
            held = left or running.consumer.attempts.under_way or running.consumer.dispatcher.partitions.unfinished
            if held or running.consumer.background.busy:
                broken.append(f"a consumer still holds {held or 'work in the background'}")
        if busy := [task_id for runner in self.runners.values() for task_id in runner.running]:
            broken.append(f"a runner still runs {busy}")
        return broken

    def _broken_for(self, expected: Expected) -> list[str]:
        task, broken = expected.task, []
        try:
            outcome = self.outcome(task)
        except (AssertionError, KeyError) as error:
            return [f"{type(error).__name__} {error}"]
        if outcome is None:
            return ["has no outcome"]
        if outcome.status not in expected.ends:
            broken.append(f"ended {outcome.status}")
        images = task.image_params.num_images if outcome.status == "completed" else 0
        drawn = [image_file(request, n, {}) for request in self.requests(task)[:1] for n in range(images)]
        if [self.store.objects[image.key] for image in outcome.images] != drawn:
            broken.append(f"its pictures are not the {images} that were drawn for it")
        released = sum(getattr(event, "code", "") == "shutting_down" for event in self.events(task))
        ran, allowed = len(self.requests(task)), expected.runs + self.interrupted[task.task_id] + released
        if self.case.mode == "killed" and not self.case.mute and ran > allowed:
            broken.append(f"ran {ran} times, which is more than {allowed}")
        return broken

    def requests(self, task: Task) -> list[RunRequest]:
        """The requests that runners accepted for the task."""
        return [
            request for runner in self.runners.values() for request in runner.ran if request.task_id == task.task_id
        ]

    def alive(self) -> list[Running]:
        """The consumers that are running."""
        return [running for running in self.consumers if running.working]


async def run_case(case: FaultCase) -> TwinScenario:
    """Run the scenario with the fault of this case to its end."""
    scenario = TwinScenario(case=case)
    try:
        await scenario.run()
    finally:
        scenario.violations = scenario.broken_promises()
        for running in scenario.consumers:
            await running.kill()
    return scenario
