"""The runners: who is there, what they can do, and who has room."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.errors import QueueUnavailable, TaskError
from tasks.ports import Clock, RunnerClient, TaskLog
from tasks.run import RunnerCard

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
RATE_CHANGE = 0.2
"""A model's speed is published again when it has changed by this share."""
_VOLATILE = {"instance", "running_pixels", "waiting", "seconds_per_megapixel_step"}


@dataclass(eq=False)
class _Member:
    runner: RunnerClient
    card: RunnerCard | None = None
    slots: set["Slot"] = field(default_factory=set)

    @property
    def pixels(self) -> int:
        return sum(slot.pixels for slot in self.slots)


@dataclass(eq=False)
class Slot:
    """Room at a runner for one task, until `release`."""

    member: _Member
    pixels: int
    released: Callable[[], None]

    @property
    def runner(self) -> RunnerClient:
        """Where the room is."""
        return self.member.runner

    def release(self) -> None:
        """Give the room back; again does nothing."""
        if self in self.member.slots:
            self.member.slots.remove(self)
            self.released()

    def lost(self) -> None:
        """The runner did not answer: nothing goes there until it says again what it can do."""
        if self.member.card is not None:
            log.warning("runner %s of %s is away: it stopped answering", self.runner.url, self.member.card.model)
        self.member.card = None


class RunnerPool:
    """All runners this consumer may feed."""

    def __init__(
        self,
        addresses: Callable[[], Awaitable[Sequence[str]]],
        connect: Callable[[str], RunnerClient],
        log: TaskLog,
        clock: Clock,
    ) -> None:
        """`addresses` names the runners there may be now, `connect` makes the client of one."""
        self._addresses = addresses
        self._connect = connect
        self._log = log
        self._clock = clock
        self._members: dict[str, _Member] = {}
        self._published: dict[str, RunnerCard] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called whenever room appears."""

    async def watch(self) -> None:
        """Ask every runner what it can do, again and again, and publish what changed."""
        while True:
            await self.look()
            await self._clock.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Ask every runner once."""
        urls = await self._addresses()
        for url in urls:
            if url not in self._members:
                self._members[url] = _Member(self._connect(url))
        for url in set(self._members) - set(urls):
            if not self._members[url].slots:
                del self._members[url]
        await asyncio.gather(*map(self._ask, tuple(self._members.values())))
        await self._publish()

    async def _ask(self, member: _Member) -> None:
        before = member.card
        try:
            member.card = await member.runner.card()
        except TaskError as error:
            member.card = None
            if before is not None:
                log.warning("runner %s of %s is away: %s", member.runner.url, before.model, error.detail)
            return
        if before is None:
            log.info("runner %s serves %s", member.runner.url, member.card.model)
            self.changed()

    async def _publish(self) -> None:
        for model, card in self.cards().items():
            known = self._published.get(model)
            if known is not None and not _differs(known, card):
                continue
            try:
                await self._log.append_card(card)
            except QueueUnavailable:
                return
            self._published[model] = card

    def learn(self, card: RunnerCard) -> None:
        """What the log said of a model when this process started: should its runners be gone, that is published too."""
        self._published.setdefault(card.model, card)

    def cards(self) -> dict[str, RunnerCard]:
        """What each model can do now; one whose runners are all away keeps its last card, with no runners."""
        cards = {model: card.model_copy(update={"runners": 0}) for model, card in self._published.items()}
        for member in self._members.values():
            if member.card is None:
                continue
            known = cards.get(member.card.model)
            count = known.runners if known is not None else 0
            cards[member.card.model] = member.card.model_copy(update={"runners": count + 1})
        return cards

    def has_room(self, model: str) -> bool:
        """Whether any runner of the model could take a task of some size."""
        return any(member.pixels < card.pixel_budget for member, card in self._of(model))

    def take(self, model: str, pixels: int) -> Slot | None:
        """Room for a task of so many pixels at the least loaded runner of the model that has it. An idle runner takes
        a task of any size."""
        fitting = [
            member
            for member, card in self._of(model)
            if not member.slots or member.pixels + pixels <= card.pixel_budget
        ]
        if not fitting:
            return None
        member = min(fitting, key=lambda one: one.pixels)
        slot = Slot(member, pixels, lambda: self.changed())
        member.slots.add(slot)
        return slot

    def busy_shares(self) -> Iterator[tuple[str, float]]:
        """Model and the share of its pixel budget in use, for every runner that answers."""
        for member in self._members.values():
            if member.card is not None:
                yield member.card.model, member.pixels / member.card.pixel_budget

    def _of(self, model: str) -> Iterator[tuple[_Member, RunnerCard]]:
        for member in self._members.values():
            if member.card is not None and member.card.model == model:
                yield member, member.card


def _differs(known: RunnerCard, card: RunnerCard) -> bool:
    if known.model_dump(exclude=_VOLATILE) != card.model_dump(exclude=_VOLATILE):
        return True
    return abs(card.seconds_per_megapixel_step - known.seconds_per_megapixel_step) > (
        RATE_CHANGE * known.seconds_per_megapixel_step
    )
