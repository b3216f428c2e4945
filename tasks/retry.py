"""`decide`: what follows an attempt that failed."""

from dataclasses import dataclass

from tasks.errors import TaskError

MAX_TRIES = 3
BACKOFF_SECONDS = (1.0, 5.0)
"""Wait before the second and the third try."""
UNCOUNTED_DELAY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Queue it again, not before `delay` seconds; `counts` is False when nothing was really tried."""

    delay: float
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Fail:
    """It ends here, with this error."""

    error: TaskError


def decide(error: TaskError, tries: int) -> RetryLater | Fail:
    """What to do after try number `tries` (from 1) ended with `error`."""
    match error.retry:
        case "uncounted":
            return RetryLater(UNCOUNTED_DELAY_SECONDS, counts=False)
        case "later" if tries < MAX_TRIES:
            return RetryLater(BACKOFF_SECONDS[max(0, tries - 1)])
        case _:
            return Fail(error)
