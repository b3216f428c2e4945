"""Every step that can be taken in a world: what owners, broker and store do, what time does, and what can go wrong.

Taking a step raises BrokenPromiseError where it breaks one:

- P1: an outcome stands as it was written, and nothing else is announced. A record without outcome is never committed.
- P2: what the store or the log calls completed has its pictures.
- P4: an attempt begins only when no other is alive that can still hold its lease, and no second one is made of a task
  that already had its outcome when the store was asked: nothing is made twice but what ran in a process that died or was out of reach.
- An event of an attempt that is past moves nothing. A cancel that was read is never followed by a new attempt.
"""

from collections.abc import Iterator
from functools import partial

from tests.proofs.protocol.change import spent, with_known, with_owner
from tests.proofs.protocol.explore import Step
from tests.proofs.protocol.log import Log
from tests.proofs.protocol.rules import FOR_EVER, Rules
from tests.proofs.protocol.state import NOBODY, Local, Owner, ProtocolState
from tests.proofs.protocol.work import Work


class Model:
    """The protocol under some rules. `attempts` is how many of a task's tries there are."""

    def __init__(self, rules: Rules | None = None, attempts: int = 2) -> None:
        self.rules = rules or Rules()
        self._log = Log(self.rules)
        self._work = Work(self._log, attempts)

    def steps(self, world: ProtocolState) -> Iterator[Step[ProtocolState]]:
        """Every way on."""
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
                yield Step(f"somebody cancels task {t}", partial(self._cancel, world, t), fault=True)
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
            t, said = owner.outbox[0]
            what = f"{name}'s {said[0]!r} of task {t}"
            yield Step(f"{what} is written", partial(log.flush, world, o, 1))
            if faults.losses:
                yield Step(f"{what} is lost", partial(log.lose, world, o), fault=True)
            if faults.repeats:
                yield Step(f"{what} is written and will be again", partial(log.repeat, world, o), fault=True)
        if any(local.unread for local in owner.tasks):
            yield Step(f"{name} reads", partial(log.read, world, o))
        for t, task in enumerate(world.tasks):
            if not owner.owns and (stopped := log.watch_orphan(owner, owner.tasks[t], task.log)) != owner.tasks[t]:
                yield Step(f"{name} reads of its orphan, task {t}", partial(with_known, world, o, t, stopped))
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
        """What it said is in the log before the next owner reads that to its end."""
        return _dropped(self._log.flush(spent(world, "rebalances"), o), o)._replace(group=NOBODY)

    def _back(self, world: ProtocolState, o: int) -> ProtocolState:
        """One that was stopped reads before it takes a task whose lease lapsed meanwhile (LAST_LOOK_SECONDS)."""
        owner = world.owners[o]
        tasks = owner.tasks
        if owner.away == "stopped" and self.rules.looks_last:
            tasks = tuple(one._replace(alarm=1) if one.alarm == 0 else one for one in tasks)
        return with_owner(world, o, owner._replace(away="", tasks=tasks))

    def _tick(self, world: ProtocolState) -> ProtocolState:
        """Who is well has said that its attempts are alive, and who is well and owns the partition has read it."""
        signs = [
            (t, ("progress", local.act.number, owner.name))
            for owner in world.owners
            if not owner.away
            for t, local in enumerate(owner.tasks)
            if local.act is not None and local.act.runs
        ]
        for t, sign in signs:
            if self._log.moved(world.tasks[t].log, sign) != world.tasks[t].log:
                world = self._log.write(world, t, sign)
        owners = []
        for owner in world.owners:
            tasks = [
                local._replace(alarm=local.alarm - 1) if local.alarm and 0 < local.alarm < FOR_EVER else local
                for local in owner.tasks
            ]
            for t, sign in signs:
                if tasks[t].state is not None and not owner.away:
                    tasks[t] = self._log.take_in(world, owner, tasks[t], sign)
            owners.append(owner._replace(tasks=tuple(tasks)))
        return world._replace(owners=tuple(owners))


def _may_tick(world: ProtocolState) -> bool:
    """Nobody who is well needs half a lease to write and read what there is."""
    if any(not owner.away and (owner.outbox or any(local.unread for local in owner.tasks)) for owner in world.owners):
        return False
    return any((local.alarm or 0) > 0 for owner in world.owners for local in owner.tasks)


def _drop_from_group(world: ProtocolState) -> ProtocolState:
    return world._replace(group=NOBODY)


def _dropped(world: ProtocolState, o: int) -> ProtocolState:
    """It forgets what it read, takes back what no runner took yet, and goes on with what it has under way."""
    owner = world.owners[o]
    acts = (local.act for local in owner.tasks)
    tasks = tuple(Local(act=None if act is not None and act.phase == "ask" else act) for act in acts)
    return with_owner(world, o, owner._replace(owns=False, stale=False, tasks=tasks))


def _crash(world: ProtocolState, o: int) -> ProtocolState:
    """Another process starts in its place and knows nothing; the group still counts on the dead one."""
    name = world.owners[o].name
    fresh = Owner(f"{name[0]}{int(name[1:]) + 1}", tasks=(Local(),) * len(world.tasks))
    return with_owner(spent(world, "crashes"), o, fresh)


def _leave(world: ProtocolState, o: int, away: str, fault: str) -> ProtocolState:
    """From now on the lease of what it has under way may lapse without its knowing."""
    owner = world.owners[o]
    tasks = tuple(one._replace(act=one.act and one.act._replace(late=True)) for one in owner.tasks)
    owner = owner._replace(away=away, stale=owner.stale or away == "cut off", tasks=tasks)
    return with_owner(spent(world, fault), o, owner)


def _jump(world: ProtocolState, o: int, hours: int) -> ProtocolState:
    return with_owner(spent(world, "jumps"), o, world.owners[o]._replace(clock=hours))
