"""The decision after a failed attempt, for every error of the catalogue."""

import pytest

from tasks.errors import ERRORS
from tasks.retry import BACKOFF_SECONDS, MAX_TRIES, UNCOUNTED_DELAY_SECONDS, Fail, RetryLater, decide

UNCOUNTED = {"runner_busy", "runner_loading", "runner_unavailable", "taken_over"}
LATER = {
    "gateway_full",
    "generation_failed",
    "out_of_memory",
    "queue_full",
    "queue_unavailable",
    "runner_lost",
    "starting_up",
    "store_unavailable",
    "too_many_connections",
    "too_many_streams",
    "too_many_unknown_ids",
    "too_many_waits",
    "user_queue_full",
    "worker_failed",
}
NEVER = ERRORS.keys() - UNCOUNTED - LATER


@pytest.mark.parametrize("code", sorted(UNCOUNTED))
@pytest.mark.parametrize("tries", [1, MAX_TRIES, MAX_TRIES + 5])
def test_an_uncounted_attempt_is_retried_soon_and_does_not_count(code: str, tries: int):
    assert decide(ERRORS[code](), tries) == RetryLater(UNCOUNTED_DELAY_SECONDS, counts=False)


@pytest.mark.parametrize("code", sorted(LATER))
@pytest.mark.parametrize("tries", range(1, MAX_TRIES))
def test_an_error_that_may_pass_is_retried_after_a_growing_delay(code: str, tries: int):
    assert decide(ERRORS[code](), tries) == RetryLater(BACKOFF_SECONDS[tries - 1], counts=True)


@pytest.mark.parametrize("code", sorted(LATER))
@pytest.mark.parametrize("tries", [MAX_TRIES, MAX_TRIES + 1])
def test_after_the_last_try_the_task_fails_with_the_error_itself(code: str, tries: int):
    error = ERRORS[code]("what it was")
    assert decide(error, tries) == Fail(error)


@pytest.mark.parametrize("code", sorted(NEVER))
@pytest.mark.parametrize("tries", [1, MAX_TRIES])
def test_an_error_that_would_repeat_fails_the_task_at_once(code: str, tries: int):
    error = ERRORS[code]("what it was")
    assert decide(error, tries) == Fail(error)


def test_every_try_but_the_last_has_a_delay_and_the_delays_grow():
    assert len(BACKOFF_SECONDS) == MAX_TRIES - 1
    assert list(BACKOFF_SECONDS) == sorted(BACKOFF_SECONDS)
