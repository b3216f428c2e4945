"""What the owner of a partition does about a task, decided from the task's state and from the attempt that runs here.

The decision depends on the state alone, never on the event that led to it. So a late, repeated or lost event does no
lasting harm: the next event of the task leads to the right decision.
"""

from dataclasses import dataclass, replace

from tasks.errors import Canceled, TakenOver, TaskError
from tasks.events import Event, Released
from tasks.state import TaskState


@dataclass(frozen=True, slots=True)
class Close:
    """The task has its outcome: its record is done and its offset may be committed."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The attempt that runs here goes on."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The attempt that runs here must stop with this error."""

    error: TaskError


@dataclass(frozen=True, slots=True)
class End:
    """No attempt runs and none should start: the task ends with this error."""

    error: TaskError


@dataclass(frozen=True, slots=True)
class Offer:
    """The task is queued and may start after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Watch:
    """An attempt runs at another owner: decide again when its lease has expired (`tasks.lease`)."""


Action = Close | Keep | Stop | End | Offer | Watch


def next_action(state: TaskState, mine: int | None, me: str) -> Action:
    """What owner `me` does about a task in this state. `mine` is the number of the attempt that runs here, or None."""
    if state.ended:
        return Close()
    if mine is not None:
        if state.cancel_requested:
            return Stop(Canceled())
        if state.attempt >= mine and state.owner not in ("", me):
            # Another owner runs this attempt number or a newer one, so our result would be discarded. Stopping
            # so does not count as a try. Our Released event then names an old attempt, so every reader ignores it.
            return Stop(TakenOver())
        return Keep()
    if state.status == "running":
        return Watch()
    if state.cancel_requested:
        return End(Canceled())
    return Offer(state.delay)


def needs_review(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
    """Whether the owner must decide again after it read this event. True if the state changed, if the task
    runs (its lease must be renewed), or if it is our own Released event: it changes no state where a newer attempt has
    begun, and the owner must still learn that its own attempt is over."""
    return after != before or after.status == "running" or (isinstance(event, Released) and event.owner == me)


def after_lease(state: TaskState) -> TaskState:
    """The state to decide by once the lease has expired or the delay is over: the task counts as queued."""
    return state if state.ended else replace(state, status="queued", owner="", delay=0.0)


def may_have_ended(state: TaskState) -> bool:
    """Whether an earlier attempt may have written an outcome without announcing it. If so, read the store before
    starting another attempt."""
    return state.attempt > 0


def may_begin(state: TaskState | None, number: int) -> bool:
    """Whether attempt `number` may still begin after the store was read. `state` is None when the task's partition is
    no longer owned here. False also if the task ended or another attempt began meanwhile."""
    return state is not None and not state.ended and state.attempt < number
