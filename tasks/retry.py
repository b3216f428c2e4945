"""`decide`: whether a failed attempt is followed by another one."""

from dataclasses import dataclass

from tasks.errors import TaskError

MAX_TRIES = 3
BACKOFF_SECONDS = (1.0, 5.0)
"""Seconds before the second and the third try."""
UNCOUNTED_DELAY_SECONDS = 0.25
"""Seconds before the next attempt when the last one does not count."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Queue the task again; it may start after `delay` seconds. `counts`: the attempt counts as a try."""

    delay: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Fail:
    """The task ends with this error."""

    error: TaskError


def decide(error: TaskError, tries: int) -> RetryLater | Fail:
    """What follows when try number `tries` (from 1) ended with `error`."""
    match error.retry:
        case "uncounted":
            return RetryLater(UNCOUNTED_DELAY_SECONDS, counts=False)
        case "later" if tries < MAX_TRIES:
            return RetryLater(BACKOFF_SECONDS[max(0, tries - 1)])
        case _:
            return Fail(error)
