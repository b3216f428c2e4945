"""How many runners a model needs."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.scaling import runners_wanted

COUNTS = st.integers(0, 1000)
SECONDS = st.floats(0, 1e6)
WAITS = st.floats(0.1, 86_400)


@pytest.mark.parametrize(
    ("tasks", "gpu_seconds", "wanted"),
    [
        (0, 0.0, 0),
        (1, 0.0, 1),
        (1, 29.0, 1),
        (1, 300.0, 1),
        (2, 300.0, 2),
        (100, 30.0, 1),
        (100, 31.0, 2),
        (100, 300.0, 10),
        (9, inf, 9),
    ],
)
def test_the_tasks_end_within_the_target_wait(tasks: int, gpu_seconds: float, wanted: int) -> None:
    assert runners_wanted(tasks, gpu_seconds, 30.0, runners=0, loading=0) == wanted


def test_a_cold_start_is_not_scaled_again() -> None:
    piled_up = {"tasks": 500, "gpu_seconds": 3000.0, "target_wait": 30.0}
    assert runners_wanted(**piled_up, runners=0, loading=1) == 1
    assert runners_wanted(**piled_up, runners=3, loading=2) == 5
    assert runners_wanted(**piled_up, runners=5, loading=0) == 100


@given(COUNTS, SECONDS, WAITS, COUNTS, COUNTS)
def test_none_is_wanted_exactly_when_there_is_no_task(
    tasks: int, gpu_seconds: float, target_wait: float, runners: int, loading: int
) -> None:
    wanted = runners_wanted(tasks, gpu_seconds, target_wait, runners, loading)
    assert (wanted == 0) == (tasks == 0)
    assert wanted <= tasks
