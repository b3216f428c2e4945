"""Where a task stands: queued -> running -> completed | failed | canceled | expired; state = apply(state, event)."""

from dataclasses import dataclass, replace

from tasks.events import OPEN, CancelRequested, Event, Outcome, Progress, Released, Started


@dataclass(frozen=True, slots=True)
class TaskState:
    """The state of a task after the events that were read so far. `attempt` is the number of the last attempt that
    started, `tries` how many attempts count towards the retry limit, `owner` the consumer that runs the attempt, and
    `delay` the seconds to wait before the next start."""

    status: str = "queued"
    attempt: int = 0
    tries: int = 0
    owner: str = ""
    step: int = 0
    steps: int = 0
    cancel_requested: bool = False
    delay: float = 0.0

    @property
    def ended(self) -> bool:
        """True when the task has its outcome; no later event changes it."""
        return self.status not in OPEN


def apply(state: TaskState, event: Event) -> TaskState:
    """The state after the event. Repeated and late events change nothing: an ended task never changes, the attempt
    number and the step never decrease."""
    if state.ended:
        return state
    match event:
        case Outcome():
            return replace(state, status=event.status, tries=max(state.tries, event.tries), owner="", delay=0.0)
        case CancelRequested():
            return replace(state, cancel_requested=True)
        case Started() | Progress() | Released() if event.attempt > state.attempt:
            began = replace(
                state,
                status="running",
                attempt=event.attempt,
                tries=state.tries + 1,
                owner=event.owner,
                step=0,
                steps=0,
                delay=0.0,
            )
            # Started may have been lost: any other event of the attempt shows that it began.
            return began if isinstance(event, Started) else apply(began, event)
        case Progress() if _is_current(state, event):
            return replace(state, step=max(state.step, event.step), steps=event.steps)
        case Released() if _is_current(state, event):
            return replace(
                state,
                status="queued",
                owner="",
                step=0,
                steps=0,
                delay=event.delay,
                tries=state.tries if event.counts else state.tries - 1,
            )
    return state


def _is_current(state: TaskState, event: Progress | Released) -> bool:
    return state.status == "running" and (event.attempt, event.owner) == (state.attempt, state.owner)
