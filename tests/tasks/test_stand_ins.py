"""A small model that stands in for a missing one takes what the missing one takes, and draws what it can."""

import pytest

from tasks.accept import accept, nearest_size
from tasks.capabilities import ServedModel, StandIn
from tasks.errors import TaskError
from tasks.task import GenerateRequest, Size, Task, TaskRecord

LANES = ("p.online_task",)
FLUX = StandIn(
    width=1024,
    height=1024,
    size_multiple=16,
    min_side=64,
    max_side=2048,
    max_pixels=2 * 1024 * 1024,
    steps=28,
    guidance_scale=3.5,
    max_prompt_length=3000,
)
MINI = ServedModel(
    model="flux-mini",
    family="flux",
    aliases=("flux-1-dev", "mini"),
    stand_ins={"flux-1-dev": FLUX},
    width=64,
    height=64,
    size_multiple=16,
    min_side=64,
    max_side=64,
    max_pixels=64 * 64,
    steps=20,
    max_steps=100,
    guidance_scale=3.0,
    schedulers=("flow_euler",),
    default_scheduler="flow_euler",
    max_prompt_length=50,
    pixel_budget=4 * 64 * 64,
    seconds_per_megapixel_step=1.0,
)


def accepted(name: str = "flux-1-dev", record: bool = False, **params: object) -> Task:
    form = TaskRecord if record else GenerateRequest
    body = {"model_name": name, "prompt": "a beautiful landscape", "image_params": params}
    request = form.model_validate(body | ({"task_id": "0" * 32} if record else {}))
    return accept(request, task_id="0" * 32, models={"flux-mini": MINI}, lanes=LANES, created_at=1.0)


def test_the_seed_request_is_drawn_small_and_delivered_at_the_size_asked_for():
    task = accepted(width=1024, height=1024, steps=30)
    params = task.image_params
    assert (params.width, params.height, params.steps) == (1024, 1024, 30)
    assert params.drawn_at == Size(width=64, height=64)
    assert (task.model_name, task.alias) == ("flux-mini", "flux-1-dev")


def test_the_defaults_are_those_of_the_model_it_stands_for():
    params = accepted().image_params
    assert (params.width, params.height, params.steps, params.guidance_scale) == (1024, 1024, 28, 3.5)


def test_cost_and_budget_go_by_the_size_drawn():
    task = accepted(width=1024, height=1024, steps=10, num_images=4)
    assert task.cost == pytest.approx(4 * 10 * 64 * 64 / 1e6)
    assert task.image_params.pixels == 4 * 64 * 64
    with pytest.raises(TaskError, match="at most 4 images of 1024x1024") as refusal:
        accepted(width=1024, height=1024, num_images=5)
    assert refusal.value.code() == "too_many_images"


@pytest.mark.parametrize("size", [{"width": 1025}, {"height": 2064}, {"width": 32}, {"width": 2048, "height": 2048}])
def test_a_size_that_the_missing_model_does_not_take_is_refused(size: dict[str, int]):
    with pytest.raises(TaskError) as refusal:
        accepted(**size)
    assert refusal.value.code() == "size_not_supported"


@pytest.mark.parametrize("name", ["flux-mini", "mini"])
def test_under_its_own_name_and_a_plain_alias_it_refuses_what_it_cannot_draw(name: str):
    with pytest.raises(TaskError) as refusal:
        accepted(name, width=1024, height=1024)
    assert refusal.value.code() == "size_not_supported"
    assert accepted(name).image_params.drawn_at is None


def test_a_size_that_it_knows_itself_is_not_resized():
    assert accepted(width=64, height=64).image_params.drawn_at is None


def test_a_record_on_a_lane_is_read_with_the_same_limits():
    task = accepted(width=1024, height=512)
    record = TaskRecord.model_validate_json(task.model_dump_json())
    again = accept(record, task_id=task.task_id, models={"flux-mini": MINI}, lanes=LANES, created_at=1.0)
    assert again.image_params == task.image_params
    assert (again.alias, again.cost) == (task.alias, task.cost)


@pytest.mark.parametrize(
    ("asked", "limits", "drawn"),
    [
        ((1024, 1024), {"max_side": 96}, (96, 96)),
        ((1024, 512), {"max_side": 96, "min_side": 32}, (96, 48)),
        ((512, 1024), {"max_side": 96, "min_side": 32}, (48, 96)),
        ((1024, 512), {"max_side": 96}, (96, 64)),
        ((96, 96), {"max_side": 96}, None),
        ((32, 32), {"min_side": 64}, (64, 64)),
        ((2048, 128), {"max_side": 128, "min_side": 64}, (128, 64)),
        ((128, 128), {"max_side": 128, "max_pixels": 96 * 96}, (96, 96)),
        ((1000, 1000), {"max_side": 96, "size_multiple": 40, "min_side": 40}, (80, 80)),
        ((2048, 1024), {"max_side": 128, "min_side": 64, "max_pixels": 64 * 80}, (80, 64)),
    ],
)
def test_the_nearest_size_keeps_shape_and_area(asked: tuple[int, int], limits: dict[str, int], drawn: object):
    model = MINI.model_copy(update={"max_pixels": 10**6} | limits)
    size = nearest_size(*asked, model)
    assert (size and (size.width, size.height)) == drawn
