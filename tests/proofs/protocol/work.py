"""What an owner does for one task, effect by effect (the handler's part)."""

from collections.abc import Callable, Iterator
from functools import cache, partial

from tests.proofs.protocol.change import act_of, spent, with_act, with_local, with_local_task, with_owner, with_task
from tests.proofs.protocol.explore import BrokenPromiseError, Step
from tests.proofs.protocol.log import Log
from tests.proofs.protocol.rules import ModelEvent, retry_decision
from tests.proofs.protocol.state import DELAYED, Act, Owner, ProtocolState, SharedTask, readable

ERROR_CODES = ("runner_lost", "broken_picture", "runner_busy")
"""One error of each kind: retried, final, uncounted."""


class Work:
    """Attempts and their ends by the rules of the log. Tasks have only their last `attempts` tries."""

    def __init__(self, log: Log, attempts: int, errors: tuple[str, ...] = ERROR_CODES) -> None:
        self.rules = log.rules
        self._log = log
        self._attempts = attempts
        self._errors = errors
        self._after_lease = cache(log.rules.after_lease)
        self._effects: dict[str, Callable[[ProtocolState, int, int], ProtocolState]] = {
            "pictures": self._pictures,
            "outcome": self._outcome,
            "event": self._event,
        }

    def steps(self, world: ProtocolState, o: int, owner: Owner, t: int) -> Iterator[Step[ProtocolState]]:
        """Every step that this owner can take for this task."""

        def step(
            action: str, take: Callable[..., ProtocolState], *more: object, fault: bool = False
        ) -> Step[ProtocolState]:
            return Step(f"{owner.name} {action} task {t}", partial(take, world, o, t, *more), fault)

        local = owner.tasks[t]
        act, state = local.act, local.state
        if act is None:
            if state is None or state.ended:
                return
            if local.timer in (DELAYED, 0):
                yield step("sees the end of the delay or lease of", self._timer_due)
            if local.queued:
                yield step("begins", self._begin)
                if world.faults.expiries and state.attempt == 0:
                    yield step("is too late to begin", self._expire, fault=True)
        elif act.phase == "look":
            yield step("looks for an outcome of", self._look)
        elif act.phase == "ask":
            yield step("has a runner that takes", self._make)
            if act.stop:
                yield step(f"stops ({act.stop}), untaken,", self._untaken, act.stop)
            elif world.faults.errors:
                yield step("has no runner that takes", self._untaken, "runner_unavailable", fault=True)
        elif act.phase == "make":
            # Writing the Started event takes far less time than drawing an image.
            if owner.away or not owner.outbox:
                yield step("has made and begins to store", self._made)
            if act.stop and not owner.away:
                yield step(f"stops ({act.stop})", self._fail, act.stop)
            elif world.faults.errors and not owner.away:
                for code in self._errors:
                    yield step(f"fails ({code}) at", self._fail, code, fault=True)
        elif act.phase == "announced":
            yield step("is done with its attempt at", self._done)
        elif act.phase != "event" or not owner.away:
            yield step(f"writes the {act.phase} of", self._effects[act.phase])

    def _timer_due(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        """If the task is queued now, its attempt begins at once. A later begin equals a timer that ends later."""
        owner = world.owners[o]
        local = owner.tasks[t]
        assert local.state is not None
        local = self._log.decide(owner, local._replace(timer=None), self._after_lease(local.state))
        world = with_local_task(world, o, t, local)
        return self._begin(world, o, t) if local.queued else world

    def _expire(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        local = world.owners[o].tasks[t]
        end = Act(phase="outcome", ending=("outcome", "expired", 0, None), late=world.owners[o].stale)
        return with_local_task(spent(world, "expiries"), o, t, local._replace(queued=False, act=end))

    def _begin(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        owner = world.owners[o]
        local, state = owner.tasks[t], owner.tasks[t].state
        assert state is not None
        if state.cancel_requested:
            raise BrokenPromiseError(f"A cancel of task {t} was read, but an attempt begins.")
        act = Act(state.attempt + 1, state.tries + 1, late=owner.stale or world.group != owner.name)
        world = with_local_task(world, o, t, local._replace(queued=False, act=act))
        return world if self.rules.may_have_ended(state) else _ask(world, o, t)

    def _look(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        act, stored = act_of(world, o, t), world.tasks[t].outcome
        if stored is not None:
            return with_act(world, o, t, act._replace(phase="event", ending=stored))
        if self.rules.may_begin(world.owners[o].tasks[t].state, act.number):
            return _ask(world, o, t)
        return self._look_again(world, o, t)

    def _untaken(self, world: ProtocolState, o: int, t: int, code: str) -> ProtocolState:
        act = act_of(world, o, t)
        if not act.stop:
            world = spent(world, "errors")
        follows, _, _ = retry_decision(code, act.tries, self._attempts)
        if follows == "released":  # No Started event was written, so no Released event is needed.
            return self._look_again(world, o, t)
        return self._outcome(self._on(world, o, t, ("outcome", follows, act.tries, None), "make"), o, t)

    def _make(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        owner, act = world.owners[o], act_of(world, o, t)
        if not act.late:
            for other in world.owners:
                others = other.tasks[t].act
                if other is not owner and others is not None and others.runs and not others.late:
                    raise BrokenPromiseError(f"P4: {owner.name} begins task {t} while {other.name} runs it.")
        started: ModelEvent = ("started", act.number, owner.name)
        owner = with_local(owner, t, owner.tasks[t]._replace(act=act._replace(phase="make")))
        return with_owner(world, o, owner._replace(outbox=(*owner.outbox, (t, started))))

    def _made(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        """The first effect is part of this step: before it no other process can see that the pictures are complete."""
        act = act_of(world, o, t)
        name = (act.number, world.owners[o].name) if self.rules.unique_names else (0, "")
        world = self._on(world, o, t, ("outcome", "completed", act.tries, name), "make")
        return self._effects[self.rules.order[0]](world, o, t)

    def _fail(self, world: ProtocolState, o: int, t: int, code: str) -> ProtocolState:
        act = act_of(world, o, t)
        if not act.stop:
            world = spent(world, "errors")
        follows, delay, counts = retry_decision(code, act.tries, self._attempts)
        if follows == "released":
            ending: ModelEvent = ("released", act.number, world.owners[o].name, delay, counts)
            return self._event(self._on(world, o, t, ending, "make"), o, t)
        return self._outcome(self._on(world, o, t, ("outcome", follows, act.tries, None), "make"), o, t)

    def _on(self, world: ProtocolState, o: int, t: int, ending: ModelEvent, phase: str) -> ProtocolState:
        """Continue with the effect that follows this phase in the rules' order."""
        order = self.rules.order
        effects = order[order.index(phase) + 1 :] if phase in order else order
        if ending[0] == "released":
            effects = tuple(effect for effect in effects if effect == "event")
        elif ending[3] is None:
            effects = tuple(effect for effect in effects if effect != "pictures")
        if effects == ("event",) and world.tasks[t].log.ended and ending == world.tasks[t].outcome:
            effects = ()  # A second announcement would change nothing.
        if not effects and ending[0] == "outcome":
            return with_act(world, o, t, None)
        return with_act(
            world, o, t, act_of(world, o, t)._replace(phase=effects[0] if effects else "announced", ending=ending)
        )

    def _pictures(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        ending, task = act_of(world, o, t).ending, world.tasks[t]
        assert ending is not None
        task = task._replace(pictures=task.pictures | {ending[3]})
        return _stored(self._on(world, o, t, ending, "pictures"), t, task)

    def _outcome(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        """An owner that loses the race adopts the winner's outcome and deletes its own pictures."""
        mine, task = act_of(world, o, t).ending, world.tasks[t]
        assert mine is not None
        if task.outcome is not None:
            if not self.rules.conditional_write and task.outcome != mine:
                raise BrokenPromiseError(f"P1: the outcome {task.outcome} of task {t} was replaced by {mine}.")
            task = task._replace(pictures=task.pictures - {mine[3]})
        stored = task.outcome or mine
        return _stored(self._on(world, o, t, stored, "outcome"), t, task._replace(outcome=stored))

    def _event(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        """The outbox is written first, because one producer keeps the order of its events."""
        world = self._log.flush(world, o)
        ending = act_of(world, o, t).ending
        assert ending is not None
        return self._log.write(self._on(world, o, t, ending, "event"), t, ending)

    def _done(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        if self.rules.reviews_after_attempt(act_of(world, o, t).release_seen):
            return self._look_again(world, o, t)
        return with_act(world, o, t, None)

    def _look_again(self, world: ProtocolState, o: int, t: int) -> ProtocolState:
        owner = world.owners[o]
        local = owner.tasks[t]._replace(act=None)
        if local.state is not None:
            local = self._log.decide(owner, local, local.state)
        return with_local_task(world, o, t, local)


def _ask(world: ProtocolState, o: int, t: int) -> ProtocolState:
    act = act_of(world, o, t)
    if world.tasks[t].outcome is not None and act.number > 1 and not act.late:
        raise BrokenPromiseError(f"P4: task {t} has its outcome and would run again.")
    return with_act(world, o, t, act._replace(phase="ask"))


def _stored(world: ProtocolState, t: int, task: SharedTask) -> ProtocolState:
    if task.outcome is not None:
        task = task._replace(
            pictures=task.pictures & {task.outcome[3]}
        )  # Pictures that the outcome does not name are never read.
    if not readable(task):
        raise BrokenPromiseError(f"P2: the outcome of task {t} says completed, but its pictures are missing.")
    return with_task(world, t, task)
