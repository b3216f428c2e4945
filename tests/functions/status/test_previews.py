"""Which preview of a task is kept, and for how long."""

import pytest

from functions.status.previews import MOST_TASKS, Previews
from tasks.preview import Preview
from tasks.state import TaskState


def preview(task_id: str = "a", attempt: int = 1, step: int = 1) -> Preview:
    return Preview(task_id=task_id, attempt=attempt, owner="o", step=step, steps=9, at=0.0, image=b"jpeg")


def running(attempt: int = 1) -> TaskState:
    return TaskState(status="running", attempt=attempt, tries=attempt, owner="o")


def test_the_newest_preview_of_the_newest_attempt_is_kept():
    previews = Previews()
    for attempt, step, kept in ((1, 3, True), (1, 3, False), (1, 2, False), (1, 4, True), (2, 1, True), (1, 5, False)):
        assert previews.put(preview(attempt=attempt, step=step), running()) is kept
    newest = previews.get("a")
    assert newest is not None
    assert (newest.attempt, newest.step) == (2, 1)


def test_a_preview_may_arrive_before_its_attempt_is_known():
    previews = Previews()
    assert previews.put(preview(), TaskState())
    assert "a" in previews


@pytest.mark.parametrize("state", [TaskState(status="completed", attempt=1), running(attempt=2)])
def test_a_preview_of_what_no_longer_runs_is_not_kept(state: TaskState):
    previews = Previews()
    assert not previews.put(preview(), state)
    assert "a" not in previews


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (running(), True),
        (running(attempt=2), False),
        (TaskState(status="queued", attempt=1), False),
        (TaskState(status="completed", attempt=1), False),
        (TaskState(status="canceled", attempt=1), False),
    ],
)
def test_a_preview_is_dropped_when_its_attempt_is_over(state: TaskState, kept: bool):
    previews = Previews()
    previews.put(preview(), running())
    previews.update("a", state)
    assert ("a" in previews) is kept


def test_previews_take_bounded_memory():
    previews = Previews()
    for number in range(MOST_TASKS + 1):
        previews.put(preview(str(number)), running())
        previews.put(preview("0", step=number + 2), running())
    assert "0" in previews
    assert "1" not in previews
    assert str(MOST_TASKS) in previews
