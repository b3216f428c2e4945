"""What the owner asks of a runner is what the task says."""

import pytest

from functions.consume.attempt import Attempt
from tasks.task import Task
from tests.proofs.upgrade.reading import VERSIONS, sample


def attempt(task: Task) -> Attempt:
    return Attempt(task=task, partition=0, number=1, tries=1, queued_seconds=0.0)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_request_of_an_older_task_is_still_the_same(version: str):
    task = Task.model_validate(sample(version, "task"))
    request = attempt(task).request(600.0).model_dump(mode="json")
    assert {name: request[name] for name in sample(version, "run_request")} == sample(version, "run_request")


def test_the_request_requires_what_the_task_requires():
    task = Task.model_validate(sample("0.1.0", "task") | {"requires": ["mask"], "max_runtime": None})
    request = attempt(task).request(600.0)
    assert request.requires == ("mask",)
    assert request.max_runtime == 600.0
