"""What the owner of a partition does about a task: decided from what the log says of it and what the owner runs itself.

The decision looks at the task's state alone, never at the event that led to it: a late, repeated or lost event is made
good by the next look.
"""

from dataclasses import dataclass, replace

from tasks.errors import Canceled, RunnerBusy, TaskError
from tasks.events import Event, Released
from tasks.state import TaskState


@dataclass(frozen=True, slots=True)
class Close:
    """It has its outcome: nothing more to do, and its record counts as done."""


@dataclass(frozen=True, slots=True)
class Keep:
    """It runs here, as it should."""


@dataclass(frozen=True, slots=True)
class Stop:
    """It runs here and should not: end the attempt with this error."""

    error: TaskError


@dataclass(frozen=True, slots=True)
class End:
    """Nobody runs it and nobody should: it ends with this error."""

    error: TaskError


@dataclass(frozen=True, slots=True)
class Offer:
    """It is queued: start it when its turn comes, not before `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Watch:
    """It runs elsewhere: look again once its lease has lapsed (`tasks.lease`)."""


Action = Close | Keep | Stop | End | Offer | Watch


def next_action(state: TaskState, mine: int | None, me: str) -> Action:
    """What owner `me` does about a task in this state; `mine` is the number of the attempt it has under way."""
    if state.ended:
        return Close()
    if mine is not None:
        if state.cancel_requested:
            return Stop(Canceled())
        if state.attempt >= mine and state.owner not in ("", me):
            # What we still make of it would be thrown away, and how it ends is not ours to say. An error that costs no
            # try only releases it; a release of an attempt that is past moves nothing.
            return Stop(RunnerBusy("Another owner took the task over."))
        return Keep()
    if state.status == "running":
        return Watch()
    if state.cancel_requested:
        return End(Canceled())
    return Offer(state.delay)


def needs_review(event: Event, before: TaskState, after: TaskState, me: str) -> bool:
    """Whether reading this event is a reason to ask `due`: it moved the task, or it is a sign of life of a running one,
    or our own word that an attempt is over (which moves nothing where nobody heard of its start)."""
    return after != before or after.status == "running" or (isinstance(event, Released) and event.owner == me)


def after_lease(state: TaskState) -> TaskState:
    """The state to go by once the lease has lapsed or the delay is over: it is anybody's, which means ours."""
    return state if state.ended else replace(state, status="queued", owner="", delay=0.0)


def may_have_ended(state: TaskState) -> bool:
    """Whether an earlier attempt may have written an outcome that nobody announced: look before making it again."""
    return state.attempt > 0


def may_begin(state: TaskState | None, number: int) -> bool:
    """Whether attempt `number` may still begin, now that the store was asked: the task is still ours to know (None: it
    is not, its partition went) and no other attempt began meanwhile."""
    return state is not None and not state.ended and state.attempt < number
