"""The state of a task after each event, as a table, and properties of every order of events."""

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.events import CancelRequested, EndStatus, Event, Outcome, Progress, Released, Started
from tasks.state import TaskState, apply
from tasks.task import ImageParams, Task

ENDED = get_args(EndStatus)
ID = "0" * 32
PARAMS = ImageParams(
    width=64, height=64, steps=10, guidance_scale=5.0, seed=1, num_images=1, format="png", scheduler="euler"
)
TASK = Task(task_id=ID, model_name="sd-mini", prompt="x", image_params=PARAMS, topic="online", created_at=0.0)


def outcome(status: str, attempt: int = 1) -> Outcome:
    return Outcome.model_validate({"task_id": ID, "at": 1.0, "status": status, "attempt": attempt, "task": TASK})


def started(attempt: int, owner: str = "a") -> Started:
    return Started(task_id=ID, at=1.0, attempt=attempt, owner=owner)


def progress(attempt: int, step: int, owner: str = "a") -> Progress:
    return Progress(task_id=ID, at=1.0, attempt=attempt, owner=owner, step=step, steps=10)


def released(attempt: int, owner: str = "a", counts: bool = True) -> Released:
    return Released(task_id=ID, at=1.0, attempt=attempt, owner=owner, delay=5.0, counts=counts)


CANCEL = CancelRequested(task_id=ID, at=1.0)

STATES = {
    "queued": TaskState(),
    "running": TaskState("running", attempt=1, tries=1, owner="a", step=3, steps=10),
    "released": TaskState("queued", attempt=1, tries=1, delay=5.0),
    "taken over": TaskState("running", attempt=2, tries=2, owner="b"),
}
EVENTS: dict[str, Event] = {
    "started 1": started(1),
    "started 2": started(2),
    "progress": progress(1, 4),
    "earlier progress": progress(1, 2),
    "another owner's progress": progress(1, 4, owner="b"),
    "released": released(1),
    "released uncounted": released(1, counts=False),
    "another owner's release": released(1, owner="b"),
    "cancel": CANCEL,
    **{status: outcome(status) for status in sorted(ENDED)},
}
SECOND = {"status": "running", "attempt": 2, "owner": "a", "step": 0, "steps": 0, "delay": 0.0}
FIRST = {"status": "running", "attempt": 1, "tries": 1, "owner": "a"}
"""The state after the first event of an attempt, whichever it is: its Started event may have been lost."""
RELEASED = {"status": "queued", "owner": "", "step": 0, "steps": 0, "delay": 5.0}
CHANGES: dict[tuple[str, str], dict[str, object]] = {
    ("queued", "started 1"): {"status": "running", "attempt": 1, "tries": 1, "owner": "a"},
    ("queued", "started 2"): SECOND | {"tries": 1},
    ("queued", "progress"): FIRST | {"step": 4, "steps": 10},
    ("queued", "earlier progress"): FIRST | {"step": 2, "steps": 10},
    ("queued", "another owner's progress"): FIRST | {"owner": "b", "step": 4, "steps": 10},
    ("queued", "released"): RELEASED | {"attempt": 1, "tries": 1},
    ("queued", "released uncounted"): RELEASED | {"attempt": 1},
    ("queued", "another owner's release"): RELEASED | {"attempt": 1, "tries": 1},
    ("running", "started 2"): SECOND | {"tries": 2},
    ("running", "progress"): {"step": 4},
    ("running", "released"): RELEASED | {"tries": 1},
    ("running", "released uncounted"): RELEASED | {"tries": 0},
    ("released", "started 2"): SECOND | {"tries": 2},
    **{(state, "cancel"): {"cancel_requested": True} for state in STATES},
    **{
        (state, status): {"status": status, "owner": "", "delay": 0.0, "tries": max(1, STATES[state].tries)}
        for state, status in product(STATES, sorted(ENDED))
    },
}
"""The fields that change; a pair that is missing changes nothing."""


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_an_event_changes_the_state_as_in_the_table(state: str, event: str):
    before = STATES[state]
    assert apply(before, EVENTS[event]) == replace(before, **CHANGES.get((state, event), {}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "event"), list(product(sorted(ENDED), EVENTS)))
def test_no_event_changes_an_ended_task(status: str, event: str):
    ended = apply(TaskState(), outcome(status))
    assert ended.ended
    assert apply(ended, EVENTS[event]) is ended


def test_a_requested_cancel_is_kept_through_another_attempt():
    state = TaskState()
    for event in (CANCEL, started(1), released(1), started(2)):
        state = apply(state, event)
    assert state.cancel_requested


ANY = st.one_of(
    st.builds(started, st.integers(1, 4), st.sampled_from("ab")),
    st.builds(progress, st.integers(1, 4), st.integers(0, 10), st.sampled_from("ab")),
    st.builds(released, st.integers(1, 4), st.sampled_from("ab"), st.booleans()),
    st.just(CANCEL),
    st.builds(outcome, st.sampled_from(sorted(ENDED)), st.integers(0, 4)),
)


@given(st.lists(ANY, max_size=30))
def test_in_any_order_attempts_and_steps_never_decrease_and_repeats_change_nothing(events: list[Event]):
    state = TaskState()
    for event in events:
        after = apply(state, event)
        assert apply(after, event) == after
        assert after.attempt >= state.attempt
        counted = event.tries if isinstance(event, Outcome) else 0
        assert 0 <= after.tries <= max(after.attempt, counted, state.tries)
        assert (after.status == "running") == bool(after.owner)
        if (after.attempt, after.status) == (state.attempt, state.status):
            assert after.step >= state.step
        assert after.cancel_requested or not state.cancel_requested
        state = after
