"""The rules the model plays by: the project's own functions. A seeded bug is one of them replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

from tasks.errors import ERRORS
from tasks.events import CancelRequested, Event, Outcome, Progress, Released, Started
from tasks.lease import LEASE_SECONDS, lease_ends
from tasks.ownership import Action, after_lease, may_begin, may_have_ended, needs_review, next_action
from tasks.retry import MAX_TRIES, Fail, RetryLater, decide
from tasks.state import TaskState, apply
from tasks.task import ImageParams, Task
from tasks.watermark import Watermark

TICK_SECONDS = LEASE_SECONDS / 2
FOR_EVER = 99
"""An alarm that does not ring within an hour."""

Said = tuple[Any, ...]
"""An event in the model: its kind and what there is to it, small and quick to compare; `real` makes it the real one."""

_PARAMS = ImageParams(
    width=64, height=64, steps=10, guidance_scale=5.0, seed=1, num_images=1, format="png", scheduler="euler"
)
_TASK = Task(task_id="0" * 32, model_name="m", prompt="x", image_params=_PARAMS, topic="online", created_at=0.0)


@cache
def real(said: Said) -> Event:
    """The event as the log would hold it."""
    common = {"task_id": _TASK.task_id, "at": 0.0}
    match said:
        case ("started", attempt, owner):
            return Started.model_validate(common | {"attempt": attempt, "owner": owner})
        case ("progress", attempt, owner):
            return Progress.model_validate(common | {"attempt": attempt, "owner": owner, "step": 0, "steps": 0})
        case ("released", attempt, owner, delay, counts):
            return Released.model_validate(
                common | {"attempt": attempt, "owner": owner, "delay": delay, "counts": counts}
            )
        case ("cancel",):
            return CancelRequested.model_validate(common)
        case ("outcome", status, tries, _):
            return Outcome.model_validate(common | {"status": status, "tries": tries, "task": _TASK})
        case _:
            raise ValueError(said)


def committable(closed: tuple[bool, ...], from_offset: int) -> int:
    """What the owner commits that began to read at `from_offset`, when the records' tasks have ended or not."""
    watermark = Watermark()
    for offset in range(from_offset, len(closed)):
        watermark.opened(offset)
    for offset in range(from_offset, len(closed)):
        if closed[offset]:
            watermark.closed(offset)
    return watermark.value


def ticks_of_lease(read_at: float, written_at: float) -> int:
    """How many ticks from now the lease lapses: by the reader's clock alone, whatever the writer's says."""
    del written_at
    return ceil((lease_ends(read_at) - read_at) / TICK_SECONDS)


@dataclass(frozen=True)
class Rules:
    """How owners decide. The defaults are the project's own."""

    apply: Callable[[TaskState, Event], TaskState] = apply
    next_action: Callable[[TaskState, int | None, str], Action] = next_action
    needs_review: Callable[[Event, TaskState, TaskState, str], bool] = needs_review
    after_lease: Callable[[TaskState], TaskState] = after_lease
    may_have_ended: Callable[[TaskState], bool] = may_have_ended
    may_begin: Callable[[TaskState | None, int], bool] = may_begin
    ticks_of_lease: Callable[[float, float], int] = ticks_of_lease
    order: tuple[str, ...] = ("pictures", "outcome", "event")
    """The handler's effects once the picture is made; a test holds the handler to it."""
    once: bool = True
    """outcome.json is written with If-None-Match."""
    own_names: bool = True
    """Pictures have names unique to their attempt."""
    closes: Callable[[TaskState, bool], bool] = lambda state, under_way: state.ended
    """May the record of a task in this state (and with something under way here) be committed?"""
    looks_after_attempt: Callable[[bool], bool] = lambda release_seen: release_seen
    """Is the end of an attempt a reason to look at the task again, its release read or not?"""
    looks_last: bool = True
    """One that was stopped reads before it takes anything."""
    reads_first: bool = True
    """A new owner reads the events before it starts anything."""


@cache
def what_follows(code: str, tries: int, attempts: int) -> tuple[str, float, bool]:
    """`decide`, for a model that has only the last `attempts` of the tries: status or "released", delay, counts."""
    match decide(ERRORS[code](), tries + max(0, MAX_TRIES - attempts)):
        case RetryLater(delay, counts):
            return "released", delay, counts
        case Fail(error):
            return ("canceled" if error.code() == "canceled" else "failed"), 0.0, True
