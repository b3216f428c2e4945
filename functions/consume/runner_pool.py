"""The runners: which of them answer, what their models can do, and which have room."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tasks.capabilities import ServedModel
from tasks.errors import QueueUnavailable, RunnerUnavailable, TaskError
from tasks.ports import Clock, RunnerClient, TaskLog

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
RATE_CHANGE = 0.2
"""A model's speed is published again when it has changed by more than this share."""
_VOLATILE = {"instance", "running_pixels", "waiting", "seconds_per_megapixel_step"}


@dataclass(eq=False)
class _Member:
    """One runner. `models`: those that take tasks now, by name; `loading`: the names of those that it is loading. Both
    are empty while the runner does not answer. `refusal`: why it refused this consumer when it was last asked; empty if
    it did not."""

    runner: RunnerClient
    models: dict[str, ServedModel] = field(default_factory=dict)
    loading: frozenset[str] = frozenset()
    slots: set["Slot"] = field(default_factory=set)
    refusal: str = ""

    def pixels(self, model: str | None = None) -> int:
        """The pixels of the slots that are taken for this model; None: for all models of the runner."""
        return sum(slot.pixels for slot in self.slots if model in (None, slot.model))


@dataclass(eq=False)
class Slot:
    """Room at a runner for one task of a model, until `release`."""

    member: _Member
    model: str
    pixels: int
    released: Callable[[], None]

    @property
    def runner(self) -> RunnerClient:
        """The runner that does the task."""
        return self.member.runner

    def release(self) -> None:
        """Give the room back. A second call does nothing."""
        if self in self.member.slots:
            self.member.slots.remove(self)
            self.released()

    def lost(self) -> None:
        """Give the runner no task until it answers `describe` again: it has stopped answering."""
        if self.member.models:
            logger.warning("runner %s of %s is away: it stopped answering", self.runner.url, _names(self.member.models))
        self.member.models = {}


class RunnerPool:
    """All runners that this consumer may use."""

    def __init__(
        self,
        addresses: Callable[[], Awaitable[Sequence[str]]],
        connect: Callable[[str], RunnerClient],
        log: TaskLog,
        clock: Clock,
    ) -> None:
        """`addresses` returns the URLs at which runners may be now, `connect` makes the client of one URL."""
        self._addresses = addresses
        self._connect = connect
        self._log = log
        self._clock = clock
        self._members: dict[str, _Member] = {}
        self._published: dict[str, ServedModel] = {}
        self._published_here: set[str] = set()
        self.looked = False
        """Whether every runner was asked at least once."""
        self.changed: Callable[[], None] = lambda: None
        """Called whenever a slot is released or a runner begins to serve a model."""

    async def watch(self) -> None:
        """Ask every runner what it can do, every POLL_SECONDS, and publish the changes."""
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
        self.looked = True
        await self._publish()

    async def _ask(self, member: _Member) -> None:
        before, reason, refusal = member.models, "it is loading or shutting down", ""
        try:
            description = await member.runner.describe()
            member.models, member.loading = description.served(), description.loading()
        except TaskError as error:
            member.models, member.loading, reason = {}, frozenset(), error.detail
            if isinstance(error, RunnerUnavailable):
                refusal = error.detail
        # Once, not at every poll: only a change of a setting ends it.
        if refusal and refusal != member.refusal:
            logger.error("%s", refusal)
        member.refusal = refusal
        if gone := before.keys() - member.models.keys():
            logger.warning("runner %s of %s is away: %s", member.runner.url, _names(gone), reason)
        if new := member.models.keys() - before.keys():
            logger.info("runner %s serves %s", member.runner.url, _names(new))
            self.changed()

    async def _publish(self) -> None:
        for name, model in self.models().items():
            published = self._published.get(name)
            if published is not None and not _differs(published, model):
                continue
            try:
                await self._log.append_card(model)
            except QueueUnavailable:
                return
            self._published[name] = model
            self._published_here.add(name)

    def learn(self, model: ServedModel) -> None:
        """Remember the newest record about a model, so that `_publish` sees how it differs from what is true now.

        Once this process has published the model, records of other consumers are left alone: where two consumers reach
        different runners, each would correct the other without end. A record that says that no runner is left is the
        exception, because its writer may have ended since, and the gateways would believe it for ever.
        """
        if model.model not in self._published_here or not (model.runners or model.loading):
            self._published[model.model] = model

    def models(self) -> dict[str, ServedModel]:
        """What each model can do now, by name. A model whose runners are all away or loading keeps what was last
        published, with 0 runners. A model that was never published has an entry once a runner has loaded it."""
        models, members = dict(self._published), self._members.values()
        for member in members:
            models |= member.models
        runners = Counter(name for member in members for name in member.models)
        loading = Counter(name for member in members for name in member.loading)
        return {
            name: model.model_copy(update={"runners": runners[name], "loading": loading[name]})
            for name, model in models.items()
        }

    def has_room(self, model: str) -> bool:
        """Whether any runner of the model has pixels left in its budget."""
        return any(member.pixels(model) < served.pixel_budget for member, served in self._of(model))

    def take(self, model: str, pixels: int) -> Slot | None:
        """Take room for a task of this many pixels at the least loaded runner of the model. None: no runner has room.

        Each model of each runner has a pixel budget. A runner that does no task of the model takes one of any size.
        """
        fitting = [
            member
            for member, served in self._of(model)
            if not (used := member.pixels(model)) or used + pixels <= served.pixel_budget
        ]
        if not fitting:
            return None
        member = min(fitting, key=_Member.pixels)
        slot = Slot(member, model, pixels, lambda: self.changed())
        member.slots.add(slot)
        return slot

    def busy_shares(self) -> Iterator[tuple[str, float]]:
        """The model and the share of its pixel budget that is in use, for each model of every runner that answers."""
        for member in self._members.values():
            for name, served in member.models.items():
                yield name, member.pixels(name) / served.pixel_budget

    def _of(self, model: str) -> Iterator[tuple[_Member, ServedModel]]:
        for member in self._members.values():
            if (served := member.models.get(model)) is not None:
                yield member, served


def _names(models: Iterable[str]) -> str:
    return ", ".join(sorted(models))


def _differs(published: ServedModel, model: ServedModel) -> bool:
    if published.model_dump(exclude=_VOLATILE) != model.model_dump(exclude=_VOLATILE):
        return True
    change = abs(model.seconds_per_megapixel_step - published.seconds_per_megapixel_step)
    return change > RATE_CHANGE * published.seconds_per_megapixel_step
