"""The catalogue of errors."""

import pytest

from tasks.errors import ERRORS, TaskError, from_code


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_error_has_a_sentence_and_a_status_a_client_understands(error: type[TaskError]):
    assert error.title().endswith(".")
    assert 400 <= error.status < 600
    problem = error("What it was.").problem("/check_status/x")
    assert problem["code"] == error.code()
    assert problem["detail"] == "What it was."


def test_an_error_without_detail_says_its_title():
    assert ERRORS["runner_lost"]().detail == ERRORS["runner_lost"].title()


def test_a_code_of_a_newer_runner_is_kept_in_the_sentence():
    error = from_code("melted", "the GPU is gone")
    assert (error.code(), error.detail) == ("generation_failed", "melted: the GPU is gone")
