"""The log in the model: what is written to it, and what an owner does when it reads an event (the dispatcher's part)."""

from dataclasses import replace
from functools import cache

from tasks.ownership import Action, Close, End, Keep, Offer, Stop, Watch
from tasks.state import TaskState
from tests.proofs.protocol.change import spent, with_local, with_owner, with_task
from tests.proofs.protocol.explore import BrokenPromiseError
from tests.proofs.protocol.rules import FOR_EVER, Rules, Said, committable, real
from tests.proofs.protocol.state import DELAYED, Act, Local, Owner, ProtocolState, readable

HOUR = 3600.0
_ENDS = {"canceled": "canceled", "started_too_late": "expired"}


class Log:
    """Writing and reading under some rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        # The values repeat without end, so every answer is remembered.
        self.moved = cache(lambda state, said: _bare(rules.apply(state, real(said))))
        self._looks = cache(lambda said, before, after, me: rules.needs_review(real(said), before, after, me))
        self._next_action = cache(rules.next_action)
        self._committable = cache(committable)

    def write(self, world: ProtocolState, t: int, said: Said) -> ProtocolState:
        """One event about the task reaches the log."""
        task = world.tasks[t]
        log = self.moved(task.log, said)
        if said[0] == "outcome":
            if task.outcome != said:
                raise BrokenPromiseError(f"P1: {said} is announced for task {t} and {task.outcome} stands.")
            if not readable(task):
                raise BrokenPromiseError(f"P2: task {t} is announced completed and its pictures are not there.")
        elif said[0] != "cancel" and said[1] < task.log.attempt and log != task.log:
            raise BrokenPromiseError(f"The event {said} of an attempt that is past moved task {t}.")
        if not task.log.ended:  # After the outcome no event of the task matters.
            world = world._replace(owners=tuple(_unread(owner, t, said) for owner in world.owners))
        return with_task(world, t, task._replace(log=log))

    def flush(self, world: ProtocolState, o: int, count: int | None = None) -> ProtocolState:
        """The first `count` events of the owner's outbox reach the log; None: all."""
        owner = world.owners[o]
        for t, said in owner.outbox[:count]:
            world = self.write(world, t, said)
        left = () if count is None else owner.outbox[count:]
        return with_owner(world, o, world.owners[o]._replace(outbox=left))

    def repeat(self, world: ProtocolState, o: int) -> ProtocolState:
        """The first event of the outbox reaches the log and stays where it is."""
        return self.write(spent(world, "repeats"), *world.owners[o].outbox[0])

    def lose(self, world: ProtocolState, o: int) -> ProtocolState:
        """The first event of the outbox never reaches the log. No other owner knows of its attempt now."""
        owner = world.owners[o]
        t, _ = owner.outbox[0]
        local = owner.tasks[t]
        if local.act is not None:
            owner = with_local(owner, t, local._replace(act=local.act._replace(late=True)))
        return with_owner(spent(world, "losses"), o, owner._replace(outbox=owner.outbox[1:]))

    def read(self, world: ProtocolState, o: int) -> ProtocolState:
        """The owner reads all there is. (To read less is to have read earlier.)"""
        owner = world.owners[o]
        for t, local in enumerate(owner.tasks):
            for said in local.unread:
                local = self.take_in(world, owner, local, said)
            owner = with_local(owner, t, local._replace(unread=()))
        if world.group == owner.name:
            owner = owner._replace(stale=False)
        return self._commit(with_owner(world, o, owner), o)

    def take_in(self, world: ProtocolState, owner: Owner, local: Local, said: Said) -> Local:
        """The owner reads one event."""
        assert local.state is not None
        after = self.moved(local.state, said)
        looks = self._looks(said, local.state, after, owner.name)
        local = local._replace(state=after)
        if local.act and said[0] == "released" and (local.act.number, owner.name) == said[1:3]:
            return local._replace(act=local.act._replace(release_seen=True))
        if not looks:
            return local
        writer = next((one.clock for one in world.owners if one.name == after.owner), owner.clock)
        return self.decide(owner, local, after, self.rules.ticks_of_lease(owner.clock * HOUR, writer * HOUR))

    def decide(self, owner: Owner, local: Local, state: TaskState, ticks: int | None = None) -> Local:
        """The owner does what `next_action` says about a task in this state; a lease would last for so many ticks."""
        act = local.act
        match self._next_action(state, act.number if act is not None and act.number else None, owner.name):
            case Close() as decided:
                return _applied(local._replace(queued=False, alarm=None), decided)
            case Keep() | Stop() as decided:
                return _applied(local, decided)
            case _ if act is not None:  # Its end is being written.
                return local
            case Watch():
                left = self.rules.ticks_of_lease(0.0, 0.0) if ticks is None else ticks
                return local._replace(queued=False, alarm=min(left, FOR_EVER))
            case End(error):
                says: Said = ("outcome", _ENDS.get(error.code(), "failed"), 0, None)
                return local._replace(queued=False, alarm=None, act=Act(phase="outcome", says=says, late=owner.stale))
            case Offer(delay):
                return local._replace(queued=not delay, alarm=DELAYED if delay else None)

    def watch_orphan(self, owner: Owner, local: Local, state: TaskState) -> Local:
        """An attempt of a partition that was lost stops when its task's state says so; the new owner does the rest."""
        act = local.act
        if act is None or act.phase != "make":
            return local
        return _applied(local, self._next_action(state, act.number, owner.name))

    def assign(self, world: ProtocolState, o: int) -> ProtocolState:
        """The owner gets the partition, reads the events to their end and the lane from the committed offset, and takes
        in what it read."""
        owner = world.owners[o]._replace(owns=True, stale=False)
        for t, local in enumerate(owner.tasks):
            act = local.act
            if act is not None and act.phase == "said":
                act = act._replace(release_seen=True)
            if t >= world.committed:
                state = world.tasks[t].log if self.rules.reads_first else TaskState()
                # Nobody knows any more when the delay after its last attempt began, so it counts as over.
                local = self.decide(owner, Local(state, act=act), replace(state, delay=0.0))
            owner = with_local(owner, t, local)
        return self._commit(with_owner(world, o, owner)._replace(group=owner.name, begun=True), o)

    def _commit(self, world: ProtocolState, o: int) -> ProtocolState:
        owner = world.owners[o]
        closed = tuple(
            local.state is not None and self.rules.closes(local.state, local.act is not None) for local in owner.tasks
        )
        start = next((t for t, local in enumerate(owner.tasks) if local.state is not None), len(closed))
        offset = max(world.committed, self._committable(closed, start))
        for t in range(world.committed, offset):
            if world.tasks[t].outcome is None:
                raise BrokenPromiseError(f"P1: task {t} is committed and has no outcome: a new owner never reads it.")
        return world._replace(committed=offset)


def _unread(owner: Owner, t: int, said: Said) -> Owner:
    local = owner.tasks[t]
    if local.state is None:
        return owner
    return with_local(owner, t, local._replace(unread=(*local.unread, said)))


def _applied(local: Local, decided: Action) -> Local:
    """The attempt under way stops if the action says so and its pictures are not complete."""
    act = local.act
    if act is None or not act.stoppable:
        return local
    match decided:
        case Close():
            return local._replace(act=act._replace(stop=act.stop or "taken_over"))
        case Stop(error):
            return local._replace(act=act._replace(stop=act.stop or error.code()))
        case _:
            return local


def _bare(state: TaskState) -> TaskState:
    """How far an ended task came makes no difference to anybody."""
    return TaskState(state.status) if state.ended else state
