"""What an owner does about a task, as a table. tests/proofs/protocol checks that the rules together keep the promises."""

import pytest

from tasks.events import CancelRequested, Progress, Released
from tasks.ownership import Action, Offer, after_lease, may_begin, needs_review, next_action
from tasks.state import TaskState, apply

QUEUED = TaskState()
WAITING = TaskState("queued", attempt=1, tries=1, delay=5.0)
MINE = TaskState("running", attempt=1, tries=1, owner="me")
OTHERS = TaskState("running", attempt=1, tries=1, owner="other")
LATER = TaskState("running", attempt=2, tries=2, owner="other")
CANCELED = TaskState("queued", cancel_requested=True)
CANCELED_ELSEWHERE = TaskState("running", attempt=1, tries=1, owner="other", cancel_requested=True)
ENDED = TaskState("completed")


def summary(action: Action) -> str:
    error = getattr(action, "error", None)
    return f"{type(action).__name__} {error and error.code()}"


@pytest.mark.parametrize(
    ("state", "mine", "expected"),
    [
        (QUEUED, None, "Offer None"),
        (WAITING, None, "Offer None"),
        (OTHERS, None, "Watch None"),
        (MINE, None, "Watch None"),
        (CANCELED, None, "End canceled"),
        (CANCELED_ELSEWHERE, None, "Watch None"),
        (after_lease(CANCELED_ELSEWHERE), None, "End canceled"),
        (after_lease(OTHERS), None, "Offer None"),
        (ENDED, None, "Close None"),
        (ENDED, 1, "Close None"),
        (after_lease(ENDED), None, "Close None"),
        (QUEUED, 1, "Keep None"),
        (MINE, 1, "Keep None"),
        (OTHERS, 2, "Keep None"),
        (OTHERS, 1, "Stop taken_over"),
        (LATER, 1, "Stop taken_over"),
        (CANCELED, 1, "Stop canceled"),
    ],
)
def test_the_next_action_for_each_state(state: TaskState, mine: int | None, expected: str):
    assert summary(next_action(state, mine, "me")) == expected


def test_a_released_task_waits_for_its_delay_and_one_whose_delay_is_over_does_not():
    assert next_action(WAITING, None, "me") == Offer(5.0)
    assert next_action(after_lease(WAITING), None, "me") == Offer(0.0)


def progress(attempt: int) -> Progress:
    return Progress(task_id="0" * 32, at=0.0, attempt=attempt, owner="other", step=0, steps=0)


def test_every_event_of_a_running_task_and_no_repeated_one_of_a_queued_needs_review():
    assert needs_review(progress(1), OTHERS, apply(OTHERS, progress(1)), "me")
    assert not needs_review(progress(1), WAITING, apply(WAITING, progress(1)), "me")
    cancel = CancelRequested(task_id="0" * 32, at=0.0)
    assert needs_review(cancel, QUEUED, apply(QUEUED, cancel), "me")
    assert not needs_review(cancel, CANCELED, apply(CANCELED, cancel), "me")


def test_our_own_release_needs_review_even_if_it_changes_nothing():
    released = Released(task_id="0" * 32, at=0.0, attempt=1, owner="me")
    assert apply(LATER, released) == LATER
    assert needs_review(released, LATER, LATER, "me")


@pytest.mark.parametrize(
    ("state", "number", "may"),
    [(QUEUED, 1, True), (OTHERS, 2, True), (LATER, 2, False), (WAITING, 1, False), (ENDED, 2, False), (None, 1, False)],
)
def test_an_attempt_begins_only_while_the_task_is_ours_and_no_other_attempt_began(
    state: TaskState | None, number: int, may: bool
):
    assert may_begin(state, number) is may
