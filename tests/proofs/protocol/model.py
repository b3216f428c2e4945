"""Every step that is possible in a state: what owners, broker and store do, the passing of time, and the faults.

A step raises BrokenPromiseError if it breaks a promise:

- P1: a written outcome never changes, and no other outcome is announced. A record without an outcome is never committed.
- P2: a task that the store or the log calls completed has its pictures.
- P4: an attempt begins only if no other live attempt can still hold the lease, and never for a task whose outcome was in
  the store when the owner looked. So only work of a process that died or was unreachable is done twice.
- An event of a past attempt changes nothing. No attempt begins after a cancel was read.
"""

from collections.abc import Iterator
from functools import partial

from tests.proofs.protocol.change import spent, with_local_task, with_owner
from tests.proofs.protocol.explore import Step
from tests.proofs.protocol.log import Log
from tests.proofs.protocol.rules import FOR_EVER, Rules
from tests.proofs.protocol.state import NOBODY, LocalTask, Owner, ProtocolState
from tests.proofs.protocol.work import Work


class Model:
    """The protocol with the given rules. `attempts`: how many tries a task has."""

    def __init__(self, rules: Rules | None = None, attempts: int = 2) -> None:
        self.rules = rules or Rules()
        self._log = Log(self.rules)
        self._work = Work(self._log, attempts)

    def steps(self, world: ProtocolState) -> Iterator[Step[ProtocolState]]:
        """Every step that is possible now."""
        for o, owner in enumerate(world.owners):
            yield from self._away(world, o, owner) if owner.away else self._here(world, o, owner)
            if owner.away != "stopped":
                for t in range(len(world.tasks)):
                    yield from self._work.steps(world, o, owner, t)
            if world.faults.crashes:
                yield Step(f"{owner.name} is killed", partial(_crash, world, o), fault=True)
            if world.faults.jumps:
                for hours in (-1, 1):
                    yield Step(f"{owner.name}'s clock jumps by {hours} h", partial(_jump, world, o, hours), fault=True)
        for t, task in enumerate(world.tasks):
            if world.faults.cancels and task.outcome is None and not task.log.cancel_requested:
                yield Step(f"a user cancels task {t}", partial(self._cancel, world, t), fault=True)
        if world.group and world.group not in {owner.name for owner in world.owners}:
            yield Step(f"the group drops {world.group}", partial(_drop_from_group, world))
        if _may_tick(world):
            yield Step("half a lease passes", partial(self._tick, world))

    def _away(self, world: ProtocolState, o: int, owner: Owner) -> Iterator[Step[ProtocolState]]:
        yield Step(f"{owner.name} is back", partial(self._back, world, o))
        if world.group == owner.name:
            yield Step(f"the group drops {owner.name}, which does not notice", partial(_drop_from_group, world))

    def _here(self, world: ProtocolState, o: int, owner: Owner) -> Iterator[Step[ProtocolState]]:
        name, faults, log = owner.name, world.faults, self._log
        if owner.outbox:
            t, event = owner.outbox[0]
            what = f"{name}'s {event[0]!r} of task {t}"
            yield Step(f"{what} is written", partial(log.flush, world, o, 1))
            if faults.losses:
                yield Step(f"{what} is lost", partial(log.lose, world, o), fault=True)
            if faults.repeats:
                yield Step(f"{what} is written and will be again", partial(log.repeat, world, o), fault=True)
        if any(local.unread for local in owner.tasks):
            yield Step(f"{name} reads", partial(log.read, world, o))
        for t, task in enumerate(world.tasks):
            if not owner.owns and (stopped := log.watch_orphan(owner, owner.tasks[t], task.log)) != owner.tasks[t]:
                yield Step(f"{name} reads of its orphan, task {t}", partial(with_local_task, world, o, t, stopped))
        if owner.owns and world.group != name:
            yield Step(f"{name} reads that it owns nothing", partial(_dropped, world, o))
        if not owner.owns and world.group == NOBODY and (o == 0 or world.begun):
            yield Step(f"{name} becomes the owner", partial(log.assign, world, o))
        if faults.rebalances and owner.owns and world.group == name:
            yield Step(f"{name} gives the partition up", partial(self._give_up, world, o), fault=True)
        if faults.stops:
            yield Step(f"{name} is stopped", partial(_leave, world, o, "stopped", "stops"), fault=True)
        if faults.cuts:
            yield Step(f"{name} is cut off", partial(_leave, world, o, "cut off", "cuts"), fault=True)

    def _cancel(self, world: ProtocolState, t: int) -> ProtocolState:
        return self._log.write(spent(world, "cancels"), t, ("cancel",))

    def _give_up(self, world: ProtocolState, o: int) -> ProtocolState:
        """A graceful hand-over: the events of the old owner are in the log before the next owner reads it to its end."""
        return _dropped(self._log.flush(spent(world, "rebalances"), o), o)._replace(group=NOBODY)

    def _back(self, world: ProtocolState, o: int) -> ProtocolState:
        """An owner that was stopped reads the log before it takes a task whose lease expired meanwhile (LAST_LOOK_SECONDS)."""
        owner = world.owners[o]
        tasks = owner.tasks
        if owner.away == "stopped" and self.rules.reads_after_stop:
            tasks = tuple(local._replace(timer=1) if local.timer == 0 else local for local in tasks)
        return with_owner(world, o, owner._replace(away="", tasks=tasks))

    def _tick(self, world: ProtocolState) -> ProtocolState:
        """Half a lease passes: healthy processes write progress of their attempts, and a healthy owner has read it."""
        progress = [
            (t, ("progress", local.act.number, owner.name))
            for owner in world.owners
            if not owner.away
            for t, local in enumerate(owner.tasks)
            if local.act is not None and local.act.runs
        ]
        for t, event in progress:
            if self._log.next_state(world.tasks[t].log, event) != world.tasks[t].log:
                world = self._log.write(world, t, event)
        owners = []
        for owner in world.owners:
            tasks = [
                local._replace(timer=local.timer - 1) if local.timer and 0 < local.timer < FOR_EVER else local
                for local in owner.tasks
            ]
            for t, event in progress:
                if tasks[t].state is not None and not owner.away:
                    tasks[t] = self._log.apply_event(world, owner, tasks[t], event)
            owners.append(owner._replace(tasks=tuple(tasks)))
        return world._replace(owners=tuple(owners))


def _may_tick(world: ProtocolState) -> bool:
    """Time passes only when every healthy process has written and read all events: it needs far less than half a lease."""
    if any(not owner.away and (owner.outbox or any(local.unread for local in owner.tasks)) for owner in world.owners):
        return False
    return any((local.timer or 0) > 0 for owner in world.owners for local in owner.tasks)


def _drop_from_group(world: ProtocolState) -> ProtocolState:
    return world._replace(group=NOBODY)


def _dropped(world: ProtocolState, o: int) -> ProtocolState:
    """The owner forgets what it read and drops attempts that no runner accepted; the others continue as orphans."""
    owner = world.owners[o]
    acts = (local.act for local in owner.tasks)
    tasks = tuple(LocalTask(act=None if act is not None and act.phase == "ask" else act) for act in acts)
    return with_owner(world, o, owner._replace(owns=False, stale=False, tasks=tasks))


def _crash(world: ProtocolState, o: int) -> ProtocolState:
    """A new process without any state takes the place of the dead one, which is still a member of the group."""
    name = world.owners[o].name
    fresh = Owner(f"{name[0]}{int(name[1:]) + 1}", tasks=(LocalTask(),) * len(world.tasks))
    return with_owner(spent(world, "crashes"), o, fresh)


def _leave(world: ProtocolState, o: int, away: str, fault: str) -> ProtocolState:
    """From now on the leases of the owner's attempts may expire unnoticed."""
    owner = world.owners[o]
    tasks = tuple(local._replace(act=local.act and local.act._replace(late=True)) for local in owner.tasks)
    owner = owner._replace(away=away, stale=owner.stale or away == "cut off", tasks=tasks)
    return with_owner(spent(world, fault), o, owner)


def _jump(world: ProtocolState, o: int, hours: int) -> ProtocolState:
    return with_owner(spent(world, "jumps"), o, world.owners[o]._replace(clock=hours))
