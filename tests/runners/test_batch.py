"""Which tasks run and which rows share a forward: decided without torch and without a model."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from runners.batch import Batch, Job
from tasks.errors import RunnerBusy
from tasks.runner_api import RunRequest

BUDGET = 4


@dataclass
class FakeSample:
    """A sample with nothing but a shape."""

    shape_key: Any


def job(pixels: int = 1, shapes: str = "a", loras: tuple[tuple[str, float], ...] = (), last_tick: int = -1) -> Job:
    """A task of so many pixels, with one image of each shape."""
    request = RunRequest(
        task_id="1",
        model_name="m",
        prompt="x",
        width=pixels,
        height=1,
        steps=1,
        guidance_scale=1,
        seed=1,
        scheduler="s",
    )
    built = Job(request, lambda _: None, 0.0, loras, last_tick=last_tick)
    built.samples = {index: FakeSample(shape) for index, shape in enumerate(shapes)}
    return built


def running(*jobs: Job) -> Batch:
    """A batch with room for all of these, which run."""
    batch = Batch(99)
    for added in jobs:
        batch.add(added)
        assert batch.admit() is added
    return batch


@pytest.mark.parametrize(
    ("pixels", "admitted"),
    [
        ((1, 1, 1), 3),
        ((2, 2, 1), 2),  # the budget is full
        ((3, 2, 1), 1),  # the third would fit, but the second came before it
        ((8,), 1),  # alone, a task of any size runs
    ],
)
def test_tasks_are_admitted_in_their_order_up_to_the_budget(pixels: tuple[int, ...], admitted: int) -> None:
    batch, jobs = Batch(BUDGET), [job(size) for size in pixels]
    for waiting in jobs:
        batch.add(waiting)
    while batch.admit():
        continue
    assert list(batch.running) == jobs[:admitted]
    assert (batch.running_pixels, batch.waiting) == (sum(pixels[:admitted]), len(pixels) - admitted)


@pytest.mark.parametrize(
    ("pixels", "refused"),
    [((4, 4), False), ((4, 4, 1), True), ((3, 3, 3), True), ((99,), False), ((99, 1), True)],
)
def test_a_task_is_refused_when_all_together_exceed_twice_the_budget(pixels: tuple[int, ...], refused: bool) -> None:
    batch = Batch(BUDGET)
    for size in pixels[:-1]:
        batch.add(job(size))
    if refused:
        with pytest.raises(RunnerBusy):
            batch.add(job(pixels[-1]))
        assert len(batch.jobs) == len(pixels) - 1
    else:
        assert batch.add(job(pixels[-1])) == len(pixels) - 1


NIGHT = (("night", 1.0),)


@pytest.mark.parametrize(
    ("jobs", "rows"),
    [
        ([job(shapes="aa"), job(shapes="a")], 3),  # all images of equal shape, of several tasks
        ([job(shapes="a", last_tick=7), job(shapes="bb", last_tick=3)], 2),  # the group that has waited longest
        ([job(shapes="a", last_tick=7), job(shapes="a", last_tick=-1), job(shapes="b", last_tick=3)], 1),
        ([job(shapes="a", last_tick=7), job(shapes="a", loras=NIGHT, last_tick=3)], 1),  # another LoRA set
        ([], 0),
        ([job(shapes="")], 0),  # every image of the task is decoded
    ],
)
def test_images_of_equal_shape_and_loras_share_the_forward(jobs: list[Job], rows: int) -> None:
    group = running(*jobs).next_group()
    assert len(group) == rows
    assert len({(row.sample.shape_key, row.job.loras) for row in group}) == min(rows, 1)


def test_a_removed_task_frees_its_pixels_and_leaves_every_queue() -> None:
    batch, first, second = Batch(BUDGET), job(4), job(2)
    batch.add(first)
    batch.add(second)
    batch.admit()
    assert batch.admit() is None
    batch.remove(first)
    batch.remove(first)
    assert first.canceled
    assert batch.admit() is second
    batch.remove(second)
    assert batch.jobs == ()


def test_the_next_waiting_task_without_images_is_prepared_first() -> None:
    batch, prepared, bare = Batch(BUDGET), job(), job(shapes="")
    batch.add(prepared)
    batch.add(bare)
    assert batch.unprepared() is bare


@pytest.mark.parametrize("module", ["batch", "families", "capabilities", "model_folder"])
def test_the_modules_that_decide_and_describe_load_no_torch(module: str) -> None:
    code = f"import sys, runners.{module}; print({{'torch', 'diffusers', 'transformers'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True)
    assert ran.stdout == "set()\n"
