"""Small changes to a world, each giving a new one."""

from typing import Any

from tests.proofs.protocol.state import Act, Local, Owner, ProtocolState, Shared


def with_owner(world: ProtocolState, o: int, owner: Owner, **more: Any) -> ProtocolState:
    """The world with this owner in place o."""
    return world._replace(owners=(*world.owners[:o], owner, *world.owners[o + 1 :]), **more)


def with_local(owner: Owner, t: int, local: Local) -> Owner:
    """The owner, knowing this of task t."""
    return owner._replace(tasks=(*owner.tasks[:t], local, *owner.tasks[t + 1 :]))


def with_known(world: ProtocolState, o: int, t: int, local: Local) -> ProtocolState:
    """The world with what owner o knows of task t."""
    return with_owner(world, o, with_local(world.owners[o], t, local))


def with_act(world: ProtocolState, o: int, t: int, act: Act | None) -> ProtocolState:
    """The world with what owner o has under way for task t."""
    return with_known(world, o, t, world.owners[o].tasks[t]._replace(act=act))


def with_task(world: ProtocolState, t: int, task: Shared) -> ProtocolState:
    """The world with this task in log and store."""
    return world._replace(tasks=(*world.tasks[:t], task, *world.tasks[t + 1 :]))


def spent(world: ProtocolState, fault: str) -> ProtocolState:
    """The world in which this fault has happened once more."""
    return world._replace(faults=world.faults._replace(**{fault: getattr(world.faults, fault) - 1}))


def act_of(world: ProtocolState, o: int, t: int) -> Act:
    """What owner o has under way for task t, where it has something."""
    act = world.owners[o].tasks[t].act
    assert act is not None
    return act
