"""The state of the model: the owners with what each knows and does, the log, the store, the faults still to come."""

from typing import NamedTuple

from tasks.state import TaskState
from tests.proofs.protocol.rules import ModelEvent

DELAYED = -1
"""A timer for the end of a delay: it may end at any time. Other timers count the ticks until a lease expires."""
NOBODY = ""

Pictures = tuple[int, str] | None
"""The name of the pictures of an attempt: its number and its owner."""


class Act(NamedTuple):
    """What an owner has under way for a task: an attempt (`number` > 0) or only the writing of its end."""

    number: int = 0
    tries: int = 0
    phase: str = "look"
    """The next step: look -> ask -> make -> pictures -> outcome -> event -> announced. The first event of the attempt is
    written when a runner accepts it (ask)."""
    ending: ModelEvent | None = None
    """The event that ends it, once that is known."""
    stop: str = ""
    release_seen: bool = False
    """Its owner has read its Released event."""
    late: bool = False
    """Its lease may have expired unnoticed: its owner was away, or its Started event was lost."""

    @property
    def runs(self) -> bool:
        """Whether a runner accepted it and its end is not written yet."""
        return self.number > 0 and self.phase not in ("look", "ask", "announced")

    @property
    def stoppable(self) -> bool:
        """Whether its pictures are not complete yet."""
        return self.phase in ("look", "ask", "make")


class LocalTask(NamedTuple):
    """What one owner knows of one task and does for it."""

    state: TaskState | None = None
    queued: bool = False
    timer: int | None = None
    act: Act | None = None
    unread: tuple[ModelEvent, ...] = ()


class Owner(NamedTuple):
    """One consumer process.

    `owns`: it believes that it owns the partition. `away`: "stopped", or "cut off": it continues without the log.
    `stale`: it was cut off and has not read the log since.
    """

    name: str
    owns: bool = False
    away: str = ""
    stale: bool = False
    clock: int = 0
    """The error of its wall clock in hours."""
    outbox: tuple[tuple[int, ModelEvent], ...] = ()
    tasks: tuple[LocalTask, ...] = ()


class SharedTask(NamedTuple):
    """One task in the log (its state after all events) and in the store."""

    log: TaskState = TaskState()
    outcome: ModelEvent | None = None
    pictures: frozenset[tuple[int, str]] = frozenset()


class Faults(NamedTuple):
    """How often each fault may still happen."""

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
    """One state of the whole model.

    `group`: the owner according to the broker. `committed`: the group's offset. `begun`: an owner has started; all owners
    are alike until then, so only the first may start.
    """

    owners: tuple[Owner, ...]
    tasks: tuple[SharedTask, ...]
    faults: Faults
    group: str = NOBODY
    committed: int = 0
    begun: bool = False


def first(owners: int, tasks: int, faults: Faults) -> ProtocolState:
    """The first state: every task is submitted and no owner has read anything."""
    return ProtocolState(
        tuple(Owner(f"{'ABCDE'[index]}1", tasks=(LocalTask(),) * tasks) for index in range(owners)),
        (SharedTask(),) * tasks,
        faults,
    )


def ended(world: ProtocolState) -> bool:
    """Whether every task has an announced outcome, every record is committed and no owner has anything to do."""
    return (
        world.committed == len(world.tasks)
        and all(task.outcome is not None and task.log.ended for task in world.tasks)
        and not any(local.act for owner in world.owners for local in owner.tasks)
    )


def readable(task: SharedTask) -> bool:
    """Whether the task has its pictures, if the store calls it completed."""
    return task.outcome is None or task.outcome[1] != "completed" or task.outcome[3] in task.pictures
