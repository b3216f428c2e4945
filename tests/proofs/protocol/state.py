"""What there is in the model: owners and what each knows and does, the log, the store, what may still go wrong."""

from typing import NamedTuple

from tasks.state import TaskState
from tests.proofs.protocol.rules import Said

DELAYED = -1
"""An alarm for the end of a delay: it may ring at any time. Other alarms count the ticks until a lease lapses."""
NOBODY = ""

Pictures = tuple[int, str] | None
"""The name of an attempt's pictures: its number and its owner."""


class Act(NamedTuple):
    """Something an owner has under way for a task: an attempt (`number` > 0) or only its end."""

    number: int = 0
    tries: int = 0
    phase: str = "look"
    """What comes next: look -> ask -> make -> pictures -> outcome -> event -> said. Until a runner accepts it
    (ask) no event of it is written."""
    says: Said | None = None
    """How it ends, once that is known."""
    stop: str = ""
    release_seen: bool = False
    """Its release has been read."""
    late: bool = False
    """It may be past its lease without knowing: its owner was cut off, or its start never reached the log."""

    @property
    def runs(self) -> bool:
        """Whether it costs a runner, or did, and is still to end."""
        return self.number > 0 and self.phase not in ("look", "ask", "said")

    @property
    def stoppable(self) -> bool:
        """Whether its picture is still to be made."""
        return self.phase in ("look", "ask", "make")


class Local(NamedTuple):
    """One owner's knowledge of one task, and its attempt at it or the end that it writes."""

    state: TaskState | None = None
    queued: bool = False
    alarm: int | None = None
    act: Act | None = None
    unread: tuple[Said, ...] = ()


class Owner(NamedTuple):
    """One consumer process. `owns`: it believes so. `away`: it is "stopped", or "cut off" from the log and goes on with
    what it knows. `stale`: it was cut off and has not read since."""

    name: str
    owns: bool = False
    away: str = ""
    stale: bool = False
    clock: int = 0
    """Hours by which its wall clock is wrong."""
    outbox: tuple[tuple[int, Said], ...] = ()
    tasks: tuple[Local, ...] = ()


class Shared(NamedTuple):
    """One task in the log (all its events, taken in) and in the store."""

    log: TaskState = TaskState()
    outcome: Said | None = None
    pictures: frozenset[tuple[int, str]] = frozenset()


class Faults(NamedTuple):
    """What may still happen, how often; beside it, how large the world is."""

    crashes: int = 0
    stops: int = 0
    cuts: int = 0
    rebalances: int = 0
    errors: int = 0
    cancels: int = 0
    expiries: int = 0
    losses: int = 0
    repeats: int = 0
    jumps: int = 0


class ProtocolState(NamedTuple):
    """Everything. `group` is the owner by the broker's word, `committed` the group's offset. Owners are alike until one
    of them has begun, so the first one does."""

    owners: tuple[Owner, ...]
    tasks: tuple[Shared, ...]
    faults: Faults
    group: str = NOBODY
    committed: int = 0
    begun: bool = False


def first(owners: int, tasks: int, faults: Faults) -> ProtocolState:
    """Every task is submitted and nobody has read anything."""
    return ProtocolState(
        tuple(Owner(f"{'ABCDE'[index]}1", tasks=(Local(),) * tasks) for index in range(owners)),
        (Shared(),) * tasks,
        faults,
    )


def ended(world: ProtocolState) -> bool:
    """Every task has its outcome, announced; everything is committed; nobody has anything left to do."""
    return (
        world.committed == len(world.tasks)
        and all(task.outcome is not None and task.log.ended for task in world.tasks)
        and not any(local.act for owner in world.owners for local in owner.tasks)
    )


def readable(task: Shared) -> bool:
    """Whether what the store calls completed has its pictures."""
    return task.outcome is None or task.outcome[1] != "completed" or task.outcome[3] in task.pictures
