"""Whether the queue has room for one more task."""

from typing import NamedTuple

from tasks.errors import QueueFull, TaskError, UserQueueFull
from tasks.fair_queue import FairQueue
from tasks.queues import Load

_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 60.0
"""Seconds: the bounds of Retry-After."""


class Limits(NamedTuple):
    """How many tasks one user, and all users together, may have in the queue."""

    of_user: int
    of_all: int


def refusal(load: Load, limits: Limits, queue: FairQueue, runners: int) -> TaskError | None:
    """The error that refuses one more task of this user, or None if there is room.

    `queue` and `runners` are those of the task's model: they give the estimate of when there will be room. The queue
    gets shorter when the next task starts; one user's part of it gets shorter once per round of all users.
    """
    turn = queue.mean_cost / max(1, runners)
    if load.of_user >= limits.of_user:
        return UserQueueFull(
            f"You have {load.of_user} tasks queued; one user may have {limits.of_user} (MAX_QUEUED_TASKS_PER_USER).",
            field="user_id",
            retry_after=_bounded(turn * queue.users),
        )
    if load.of_all >= limits.of_all:
        return QueueFull(
            f"{load.of_all} tasks are queued; the service takes {limits.of_all} (MAX_QUEUED_TASKS).",
            retry_after=_bounded(turn),
        )
    return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, _SHORTEST_RETRY), _LONGEST_RETRY)
