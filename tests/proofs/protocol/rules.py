"""The rules of the model: the product's own functions. A seeded bug replaces one of them."""

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
"""Ticks of a timer that does not end within an hour."""

ModelEvent = tuple[Any, ...]
"""An event in the model: a tuple of its kind and its fields, small and quick to compare. `real` makes the product's event."""

_PARAMS = ImageParams(
    width=64, height=64, steps=10, guidance_scale=5.0, seed=1, num_images=1, format="png", scheduler="euler"
)
_TASK = Task(task_id="0" * 32, model_name="m", prompt="x", image_params=_PARAMS, topic="online", created_at=0.0)


@cache
def real(event: ModelEvent) -> Event:
    """The product's event for an event of the model."""
    common = {"task_id": _TASK.task_id, "at": 0.0}
    match event:
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
            raise ValueError(event)


def committable(closed: tuple[bool, ...], from_offset: int) -> int:
    """The offset that an owner commits that began to read at `from_offset`. `closed`: whether each record's task ended."""
    watermark = Watermark()
    for offset in range(from_offset, len(closed)):
        watermark.opened(offset)
    for offset in range(from_offset, len(closed)):
        if closed[offset]:
            watermark.closed(offset)
    return watermark.value


def ticks_of_lease(read_at: float, written_at: float) -> int:
    """The ticks from now until the lease expires: by the reader's clock alone, whatever the writer's clock shows."""
    del written_at
    return ceil((lease_ends(read_at) - read_at) / TICK_SECONDS)


@dataclass(frozen=True)
class Rules:
    """How owners decide. The defaults are the product's own functions."""

    apply: Callable[[TaskState, Event], TaskState] = apply
    next_action: Callable[[TaskState, int | None, str], Action] = next_action
    needs_review: Callable[[Event, TaskState, TaskState, str], bool] = needs_review
    after_lease: Callable[[TaskState], TaskState] = after_lease
    may_have_ended: Callable[[TaskState], bool] = may_have_ended
    may_begin: Callable[[TaskState | None, int], bool] = may_begin
    ticks_of_lease: Callable[[float, float], int] = ticks_of_lease
    order: tuple[str, ...] = ("pictures", "outcome", "event")
    """The handler's effects after an image is drawn. A test checks that the handler has this order."""
    conditional_write: bool = True
    """outcome.json is written with If-None-Match."""
    unique_names: bool = True
    """Pictures have names unique to their attempt."""
    closes: Callable[[TaskState, bool], bool] = lambda state, under_way: state.ended
    """Whether the record of a task in this state may be committed; the second argument: whether an attempt is under way."""
    reviews_after_attempt: Callable[[bool], bool] = lambda release_seen: release_seen
    """Whether an owner decides about the task again when its attempt ends; the argument: whether it has read the release."""
    reads_after_stop: bool = True
    """An owner that was stopped reads the log before it takes a task."""
    reads_first: bool = True
    """A new owner reads the events before it starts anything."""


@cache
def retry_decision(code: str, tries: int, attempts: int) -> tuple[str, float, bool]:
    """`decide` for a task that has only its last `attempts` tries: a status or "released", the delay, whether it counts."""
    match decide(ERRORS[code](), tries + max(0, MAX_TRIES - attempts)):
        case RetryLater(delay, counts):
            return "released", delay, counts
        case Fail(error):
            return ("canceled" if error.code() == "canceled" else "failed"), 0.0, True
