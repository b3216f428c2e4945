"""The names that events have in Python and on the wire."""

import json

import pytest

from tasks.events import Outcome, parse_event
from tests.tasks.test_state import TASK


@pytest.mark.parametrize("name", ["tries", "attempt"])
def test_an_outcome_may_be_built_by_either_name_of_its_tries(name: str):
    outcome = Outcome.model_validate({"task_id": TASK.task_id, "at": 1.0, "status": "failed", "task": TASK, name: 2})
    assert outcome.tries == 2


def test_the_tries_of_an_outcome_are_named_attempt_on_the_wire():
    outcome = Outcome(task_id=TASK.task_id, at=1.0, status="completed", tries=3, task=TASK)
    for dumped in (outcome.model_dump(), json.loads(outcome.model_dump_json()), outcome.model_dump(mode="json")):
        assert dumped["attempt"] == 3
        assert "tries" not in dumped
    assert parse_event(outcome.model_dump_json().encode()) == outcome
