"""Small changes of a state; each returns a new state."""

from typing import Any

from tests.proofs.protocol.state import Act, LocalTask, Owner, ProtocolState, SharedTask


def with_owner(world: ProtocolState, o: int, owner: Owner, **more: Any) -> ProtocolState:
    """The state with this owner at index o."""
    return world._replace(owners=(*world.owners[:o], owner, *world.owners[o + 1 :]), **more)


def with_local(owner: Owner, t: int, local: LocalTask) -> Owner:
    """The owner with this knowledge of task t."""
    return owner._replace(tasks=(*owner.tasks[:t], local, *owner.tasks[t + 1 :]))


def with_local_task(world: ProtocolState, o: int, t: int, local: LocalTask) -> ProtocolState:
    """The state with this knowledge of owner o about task t."""
    return with_owner(world, o, with_local(world.owners[o], t, local))


def with_act(world: ProtocolState, o: int, t: int, act: Act | None) -> ProtocolState:
    """The state in which owner o has this under way for task t."""
    return with_local_task(world, o, t, world.owners[o].tasks[t]._replace(act=act))


def with_task(world: ProtocolState, t: int, task: SharedTask) -> ProtocolState:
    """The state with this task in log and store."""
    return world._replace(tasks=(*world.tasks[:t], task, *world.tasks[t + 1 :]))


def spent(world: ProtocolState, fault: str) -> ProtocolState:
    """The state in which this fault has happened once more."""
    return world._replace(faults=world.faults._replace(**{fault: getattr(world.faults, fault) - 1}))


def act_of(world: ProtocolState, o: int, t: int) -> Act:
    """What owner o has under way for task t; it must have something."""
    act = world.owners[o].tasks[t].act
    assert act is not None
    return act
