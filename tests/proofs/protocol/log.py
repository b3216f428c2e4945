"""The log in the model: how events are written, and what an owner does when it reads one (the dispatcher's part)."""

from dataclasses import replace
from functools import cache

from tasks.ownership import Action, Close, End, Keep, Offer, Stop, Watch
from tasks.state import TaskState
from tests.proofs.protocol.change import spent, with_local, with_owner, with_task
from tests.proofs.protocol.explore import BrokenPromiseError
from tests.proofs.protocol.rules import FOR_EVER, ModelEvent, Rules, committable, real
from tests.proofs.protocol.state import DELAYED, Act, LocalTask, Owner, ProtocolState, readable

HOUR = 3600.0
_ENDS = {"canceled": "canceled", "started_too_late": "expired"}


class Log:
    """Writes and reads events by the given rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        # The same few values repeat millions of times, so every answer is cached.
        self.next_state = cache(lambda state, event: _bare(rules.apply(state, real(event))))
        self._needs_review = cache(lambda event, before, after, me: rules.needs_review(real(event), before, after, me))
        self._next_action = cache(rules.next_action)
        self._committable = cache(committable)

    def write(self, world: ProtocolState, t: int, event: ModelEvent) -> ProtocolState:
        """The world after an event of task t is in the log."""
        task = world.tasks[t]
        log = self.next_state(task.log, event)
        if event[0] == "outcome":
            if task.outcome != event:
                raise BrokenPromiseError(f"P1: {event} is announced for task {t}, but {task.outcome} is stored.")
            if not readable(task):
                raise BrokenPromiseError(f"P2: task {t} is announced completed, but its pictures are missing.")
        elif event[0] != "cancel" and event[1] < task.log.attempt and log != task.log:
            raise BrokenPromiseError(f"The event {event} of a past attempt changed task {t}.")
        if not task.log.ended:  # After the outcome no event of the task matters.
            world = world._replace(owners=tuple(_unread(owner, t, event) for owner in world.owners))
        return with_task(world, t, task._replace(log=log))

    def flush(self, world: ProtocolState, o: int, count: int | None = None) -> ProtocolState:
        """The world after the first `count` events of the owner's outbox are in the log; None: all of them."""
        owner = world.owners[o]
        for t, event in owner.outbox[:count]:
            world = self.write(world, t, event)
        left = () if count is None else owner.outbox[count:]
        return with_owner(world, o, world.owners[o]._replace(outbox=left))

    def repeat(self, world: ProtocolState, o: int) -> ProtocolState:
        """The first event of the outbox reaches the log and stays in the outbox, so it will be written again."""
        return self.write(spent(world, "repeats"), *world.owners[o].outbox[0])

    def lose(self, world: ProtocolState, o: int) -> ProtocolState:
        """The first event of the outbox is lost, so no other owner learns of its attempt."""
        owner = world.owners[o]
        t, _ = owner.outbox[0]
        local = owner.tasks[t]
        if local.act is not None:
            owner = with_local(owner, t, local._replace(act=local.act._replace(late=True)))
        return with_owner(spent(world, "losses"), o, owner._replace(outbox=owner.outbox[1:]))

    def read(self, world: ProtocolState, o: int) -> ProtocolState:
        """The owner reads every unread event. Reading only some of them equals an earlier read."""
        owner = world.owners[o]
        for t, local in enumerate(owner.tasks):
            for event in local.unread:
                local = self.apply_event(world, owner, local, event)
            owner = with_local(owner, t, local._replace(unread=()))
        if world.group == owner.name:
            owner = owner._replace(stale=False)
        return self._commit(with_owner(world, o, owner), o)

    def apply_event(self, world: ProtocolState, owner: Owner, local: LocalTask, event: ModelEvent) -> LocalTask:
        """What the owner holds of the task after it has read one event."""
        assert local.state is not None
        after = self.next_state(local.state, event)
        review = self._needs_review(event, local.state, after, owner.name)
        local = local._replace(state=after)
        if local.act and event[0] == "released" and (local.act.number, owner.name) == event[1:3]:
            return local._replace(act=local.act._replace(release_seen=True))
        if not review:
            return local
        writer = next((other.clock for other in world.owners if other.name == after.owner), owner.clock)
        return self.decide(owner, local, after, self.rules.ticks_of_lease(owner.clock * HOUR, writer * HOUR))

    def decide(self, owner: Owner, local: LocalTask, state: TaskState, ticks: int | None = None) -> LocalTask:
        """The owner does what `next_action` says for this state. `ticks`: how long a lease that it watches would last."""
        act = local.act
        match self._next_action(state, act.number if act is not None and act.number else None, owner.name):
            case Close() as action:
                return _with_action(local._replace(queued=False, timer=None), action)
            case Keep() | Stop() as action:
                return _with_action(local, action)
            case _ if act is not None:  # The owner is already writing the end of the task.
                return local
            case Watch():
                lease = self.rules.ticks_of_lease(0.0, 0.0) if ticks is None else ticks
                return local._replace(queued=False, timer=min(lease, FOR_EVER))
            case End(error):
                ending: ModelEvent = ("outcome", _ENDS.get(error.code(), "failed"), 0, None)
                return local._replace(
                    queued=False, timer=None, act=Act(phase="outcome", ending=ending, late=owner.stale)
                )
            case Offer(delay):
                return local._replace(queued=not delay, timer=DELAYED if delay else None)

    def watch_orphan(self, owner: Owner, local: LocalTask, state: TaskState) -> LocalTask:
        """An orphan stops if the state of its task says so; the new owner does everything else."""
        act = local.act
        if act is None or act.phase != "make":
            return local
        return _with_action(local, self._next_action(state, act.number, owner.name))

    def assign(self, world: ProtocolState, o: int) -> ProtocolState:
        """The owner gets the partition, reads the events to their end and the lane from the committed offset, and decides
        about each task."""
        owner = world.owners[o]._replace(owns=True, stale=False)
        for t, local in enumerate(owner.tasks):
            act = local.act
            if act is not None and act.phase == "announced":
                act = act._replace(release_seen=True)
            if t >= world.committed:
                state = world.tasks[t].log if self.rules.reads_first else TaskState()
                # A new owner cannot know when the delay of a released task began, so it counts as over.
                local = self.decide(owner, LocalTask(state, act=act), replace(state, delay=0.0))
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
                raise BrokenPromiseError(
                    f"P1: task {t} is committed and has no outcome, so no later owner will read it."
                )
        return world._replace(committed=offset)


def _unread(owner: Owner, t: int, event: ModelEvent) -> Owner:
    local = owner.tasks[t]
    if local.state is None:
        return owner
    return with_local(owner, t, local._replace(unread=(*local.unread, event)))


def _with_action(local: LocalTask, action: Action) -> LocalTask:
    """Stop the attempt under way if the action says so and its pictures are not complete."""
    act = local.act
    if act is None or not act.stoppable:
        return local
    match action:
        case Close():
            return local._replace(act=act._replace(stop=act.stop or "taken_over"))
        case Stop(error):
            return local._replace(act=act._replace(stop=act.stop or error.code()))
        case _:
            return local


def _bare(state: TaskState) -> TaskState:
    """An ended task without its counts: no decision depends on them, and fewer different states are explored."""
    return TaskState(state.status) if state.ended else state
