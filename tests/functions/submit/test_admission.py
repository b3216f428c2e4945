"""The rule that refuses one more task."""

import pytest

from functions.submit.admission import Limits, refusal
from tasks.fair_queue import FairQueue, Flow
from tasks.queues import Load


def queue_of(*users: str, cost: float = 4.0) -> FairQueue:
    """A queue with a task of each."""
    queue = FairQueue({})
    for n, user in enumerate(users):
        queue.push(str(n), Flow("lane", user), cost)
    return queue


@pytest.mark.parametrize(
    ("load", "runners", "code", "retry_after"),
    [
        (Load(1, 2), 1, None, None),
        (Load(2, 2), 1, "user_queue_full", 8.0),
        (Load(3, 9), 1, "user_queue_full", 8.0),
        (Load(2, 2), 4, "user_queue_full", 2.0),
        (Load(2, 2), 0, "user_queue_full", 8.0),
        (Load(0, 3), 1, "queue_full", 4.0),
        (Load(0, 3), 100, "queue_full", 1.0),
    ],
)
def test_the_limits_and_the_retry_estimate(
    load: Load, runners: int, code: str | None, retry_after: float | None
) -> None:
    refused = refusal(load, Limits(2, 3), queue_of("a", "a", "b"), runners)
    assert (refused and refused.code(), refused and refused.retry_after) == (code, retry_after)


def test_no_retry_after_is_longer_than_a_minute() -> None:
    refused = refusal(Load(2, 2), Limits(2, 3), queue_of("a", "b", cost=1e6), 1)
    assert refused is not None
    assert refused.retry_after == 60.0
