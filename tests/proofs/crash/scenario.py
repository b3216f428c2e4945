"""The day on twins, with a clock that is turned; and what must be true of it in the end."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.clock import ManualClock, settle
from adapters.memory_log import DEAD_LETTERS, MemoryLog
from adapters.memory_runner import image_bytes
from functions.consume.consumer import build_consumer
from tasks.lease import LEASE_SECONDS
from tasks.outcome_json import outcome_key
from tasks.runner_api import RunRequest
from tasks.task import Task
from tests.proofs.crash.ports import Fate, FatedClock, FatedLog, FatedRunner, FatedStore, Mode, Point
from tests.proofs.crash.story import CARDS, CARDS_BEFORE, POISON, Expected, MoodyRunner, tell
from tests.support.world import Running, World

AWAY_SECONDS = 1.5 * LEASE_SECONDS
"""How long a zombie is away: its lease has lapsed when it is back."""
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Play:
    """Who meets which fate where, and when the next consumer is started: at once, or when the day is over. `again` is the
    point at which that one dies too. Of what a `mute` victim emits without waiting nothing arrives."""

    victim: str = "first"
    point: Point | None = None
    mode: Mode = "killed"
    heir_at_once: bool = True
    again: Point | None = None
    mute: bool = False


class SwiftClock(ManualClock):
    """Goes on as soon as nothing is left to do, for there is nothing but memory to wait for."""

    async def advance(self, seconds: float) -> None:
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await quiet()
        self._elapsed = end
        await quiet()


async def quiet() -> None:
    """Let everything that is ready on the event loop run."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    while ready:
        await asyncio.sleep(0)


@dataclass
class Day(World):
    """A world in which one consumer has a fate."""

    clock: ManualClock = field(default_factory=SwiftClock)
    play: Play = Play()
    named: dict[str, tuple[Running, Fate]] = field(default_factory=dict)
    asked: dict[str, Expected] = field(default_factory=dict)
    running_then: Counter[str] = field(default_factory=Counter)
    """In how many processes that were struck each task ran."""
    leaving: set[str] = field(default_factory=set)
    """The tasks that the second consumer ran when it was stopped: it releases those that outlive its grace."""
    verdict: list[str] = field(default_factory=list)
    """The promises that did not hold in the end, in words."""
    _strikes: list["asyncio.Future[None]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cards = {card.model: card for card in CARDS}
        self.runners = {runner.url: runner for runner in (MoodyRunner(card, self.clock) for card in CARDS)}

    @property
    def fate(self) -> Fate:
        """The victim's."""
        return self.named[self.play.victim][1]

    async def append(self, task: Task) -> None:
        await self.client.append_task(task)
        await settle()

    async def poison(self) -> None:
        await self.raw(POISON)

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def leave(self, name: str) -> None:
        running, fate = self.named[name]
        if fate.met:
            return
        self.leaving = set(running.consumer.attempts.under_way)
        leaving = asyncio.ensure_future(running.stop(grace=1))
        await settle()
        await self.clock.advance(1.2)
        if not fate.met:
            await leaving

    async def launch(self, name: str) -> None:
        """One more consumer; the victim of the play has the fate of the play."""
        play, mine = self.play, name == self.play.victim
        point = play.point if mine else play.again if name == "heir" else None
        mode: Mode = play.mode if mine else "killed"
        log = MemoryLog(self.broker)
        fate = Fate(point, mode, lambda: self._strikes.append(asyncio.ensure_future(self._strike(running, fate))))
        fate.mute = play.mute and mine

        async def addresses() -> Sequence[str]:
            return list(self.runners)

        consumer = build_consumer(
            self.settings,
            task_log=FatedLog(log, fate),
            store=FatedStore(self.store, fate),
            clock=FatedClock(self.clock, fate),
            addresses=addresses,
            connect=lambda url: FatedRunner(self.runners[url], fate),
        )
        running = Running(log, consumer, asyncio.create_task(consumer.run()))
        self.consumers.append(running)
        self.named[name] = (running, fate)
        await settle()

    async def _strike(self, running: Running, fate: Fate) -> None:
        leaving = self.leaving if self.play.victim == "second" else set()
        self.running_then.update({*running.consumer.attempts.under_way, *leaving})
        if fate.mode == "killed":
            await running.kill()
        else:
            running.log.leave()
        if self.play.heir_at_once or self.asked:
            await self.start_heir()
        if fate.mode != "killed":
            await self.clock.sleep(AWAY_SECONDS)
            fate.mend()

    async def start_heir(self) -> None:
        """The consumer that is started on what is left; should it die too, one more."""
        await self.launch("last" if "heir" in self.named else "heir")

    async def live(self) -> None:
        """The whole day, and on until nothing is left to do."""
        for card in CARDS_BEFORE:
            await self.client.append_card(card)
        self.asked = await tell(self)
        if self.fate.met and not self.play.heir_at_once:
            await self.start_heir()
        waited = 0.0
        while not self.at_rest() and waited < PATIENCE_SECONDS:
            await self.clock.advance(1)
            waited += 1

    def at_rest(self) -> bool:
        """Whether nothing more will happen."""
        away = any(fate.away for _, fate in self.named.values())
        busy = any(one.consumer.background.busy for one in self.alive())
        ended = all(outcome_key(one.task.task_id) in self.store.objects for one in self.asked.values())
        return ended and not away and not busy and self.watermark_at_end()

    def broken(self) -> list[str]:
        """The promises that do not hold, in words."""
        wrong = [f"{name}: {what}" for name, expected in self.asked.items() for what in self._broken_about(expected)]
        if not self.watermark_at_end():
            wrong.append(f"the watermark stands at {self.broker.committed}")
        if POISON not in [letter.value for letter in self.broker.topics[DEAD_LETTERS][0]]:
            wrong.append("the poison record is not with the dead letters")
        for one in self.alive():
            left = [known.task_id for known in one.consumer.view.unfinished()]
            held = left or one.consumer.attempts.under_way or one.consumer.dispatcher.partitions.unfinished
            if held or one.consumer.background.busy:
                wrong.append(f"a consumer still holds {held or 'work in the background'}")
        if busy := [task_id for runner in self.runners.values() for task_id in runner.running]:
            wrong.append(f"a runner still runs {busy}")
        return wrong

    def _broken_about(self, expected: Expected) -> list[str]:
        task, wrong = expected.task, []
        try:
            outcome = self.outcome(task)
        except (AssertionError, KeyError) as error:
            return [f"{type(error).__name__} {error}"]
        if outcome is None:
            return ["has no outcome"]
        if outcome.status not in expected.ends:
            wrong.append(f"ended {outcome.status}")
        wanted = task.image_params.num_images if outcome.status == "completed" else 0
        drawn = [image_bytes(request, n, {}) for request in self.requests(task)[:1] for n in range(wanted)]
        if [self.store.objects[image.key] for image in outcome.images] != drawn:
            wrong.append(f"its pictures are not the {wanted} that were drawn for it")
        given_back = sum(getattr(event, "code", "") == "shutting_down" for event in self.events(task))
        ran, may = len(self.requests(task)), expected.runs + self.running_then[task.task_id] + given_back
        if self.play.mode == "killed" and not self.play.mute and ran > may:
            wrong.append(f"ran {ran} times, which is more than {may}")
        return wrong

    def requests(self, task: Task) -> list[RunRequest]:
        """What runners were asked to draw for the task."""
        return [one for runner in self.runners.values() for one in runner.ran if one.task_id == task.task_id]

    def alive(self) -> list[Running]:
        """The consumers that still work."""
        return [one for one in self.consumers if one.working]


async def day(play: Play) -> Day:
    """Live the day to its end."""
    made = Day(play=play)
    try:
        await made.live()
    finally:
        made.verdict = made.broken()
        for running in made.consumers:
            await running.kill()
    return made
