"""Where a task stands: queued -> running -> completed | failed | canceled | expired; state = apply(state, event)."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from tasks.events import CancelRequested, EndStatus, Event, Outcome, Progress, Released, Started

Status = Literal["queued", "running", "completed", "failed", "canceled", "expired"]
ENDED: frozenset[str] = frozenset(get_args(EndStatus))


@dataclass(frozen=True, slots=True)
class TaskState:
    """What the events so far say. `attempt` is the last one started, `tries` how many of them counted."""

    status: Status = "queued"
    attempt: int = 0
    tries: int = 0
    owner: str = ""
    step: int = 0
    steps: int = 0
    cancel_requested: bool = False
    delay: float = 0.0

    @property
    def ended(self) -> bool:
        """True when nothing moves the task any more."""
        return self.status in ENDED


def apply(state: TaskState, event: Event) -> TaskState:
    """The state after the event. Duplicates and late events change nothing: an ended task never moves, an attempt
    never goes back, a step never decreases."""
    if state.ended:
        return state
    match event:
        case Outcome():
            return replace(state, status=event.status, tries=max(state.tries, event.attempt), owner="", delay=0.0)
        case CancelRequested():
            return replace(state, cancel_requested=True)
        case Started():
            if event.attempt <= state.attempt:
                return state
            return replace(
                state,
                status="running",
                attempt=event.attempt,
                tries=state.tries + 1,
                owner=event.owner,
                step=0,
                steps=0,
                delay=0.0,
            )
        case Progress():
            if (event.attempt, event.owner) != (state.attempt, state.owner) or state.status != "running":
                return state
            return replace(state, step=max(state.step, event.step), steps=event.steps)
        case Released():
            if (event.attempt, event.owner) != (state.attempt, state.owner) or state.status != "running":
                return state
            return replace(
                state,
                status="queued",
                owner="",
                step=0,
                steps=0,
                delay=event.delay,
                tries=state.tries if event.counts else state.tries - 1,
            )
