"""The requests that `accept` completes and those that it refuses."""

import pytest

from tasks.accept import accept
from tasks.capabilities import ServedModel
from tasks.errors import TaskError
from tasks.task import GenerateRequest, Task, seed_of

LANES = ("p.online_task", "p.batch_task")
CARD = ServedModel(
    model="flux-mini",
    family="flux",
    aliases=("flux-1-dev",),
    width=128,
    height=128,
    size_multiple=16,
    min_side=64,
    max_side=512,
    max_pixels=512 * 256,
    steps=20,
    max_steps=100,
    guidance_scale=3.5,
    schedulers=("flow_euler",),
    default_scheduler="flow_euler",
    loras=("night", "outline"),
    max_loras=2,
    max_prompt_length=50,
    max_num_images=4,
    pixel_budget=4 * 128 * 128,
    seconds_per_megapixel_step=0.5,
)
TASK_ID = "0" * 32


def accepted(card: ServedModel = CARD, **body: object) -> Task:
    request = GenerateRequest.model_validate({"model_name": "flux-mini", "prompt": "a red circle"} | body)
    return accept(request, task_id=TASK_ID, models={card.model: card}, lanes=LANES, created_at=1.0)


def test_missing_values_are_filled_with_the_defaults_of_the_model():
    task = accepted()
    params = task.image_params
    assert (params.width, params.height, params.steps, params.guidance_scale) == (128, 128, 20, 3.5)
    assert (params.scheduler, params.format, params.num_images) == ("flow_euler", "png", 1)
    assert task.topic == "p.online_task"
    assert task.alias is None


def test_the_seed_of_a_task_that_names_none_is_the_same_at_every_attempt():
    assert accepted().image_params.seed == accepted().image_params.seed == seed_of(TASK_ID)


def test_a_seed_of_zero_and_a_guidance_of_zero_are_kept():
    params = accepted(image_params={"seed": 0, "guidance_scale": 0.0}).image_params
    assert (params.seed, params.guidance_scale) == (0, 0.0)


def test_an_alias_is_resolved_and_kept_in_the_task():
    task = accepted(model_name="flux-1-dev")
    assert (task.model_name, task.alias) == ("flux-mini", "flux-1-dev")


@pytest.mark.parametrize("name", ["batch_task", "p.batch_task"])
def test_a_lane_may_be_named_short_or_in_full(name: str):
    assert accepted(topic=name).topic == "p.batch_task"


def test_the_cost_is_steps_times_megapixels_times_the_measured_rate():
    cost = accepted(image_params={"steps": 10, "num_images": 2}).cost
    assert cost == pytest.approx(2 * 10 * 128 * 128 / 1e6 * 0.5)


def test_an_accepted_task_read_again_from_its_record_is_the_same_task():
    from tasks.task import TaskRecord

    task = accepted(model_name="flux-1-dev", loras=["night"], user_id="u", start_within=9)
    record = TaskRecord.model_validate_json(task.model_dump_json())
    again = accept(
        record, task_id=record.task_id, models={CARD.model: CARD}, lanes=LANES, created_at=record.created_at or 0
    )
    assert again == task


REFUSALS = [
    ({"model_name": "nope"}, "unknown_model", "model_name", "flux-mini"),
    ({"topic": "nope"}, "unknown_lane", "topic", "p.online_task"),
    ({"loras": ["nope"]}, "unknown_lora", "loras.0", "night"),
    ({"loras": ["night", "night"]}, "unknown_lora", "loras.1", "twice"),
    ({"loras": ["night", "outline", "x"]}, "unknown_lora", "loras", "at most 2"),
    ({"image_params": {"scheduler": "nope"}}, "unknown_scheduler", "image_params.scheduler", "flow_euler"),
    ({"image_params": {"width": 100}}, "size_not_supported", "image_params.width", "multiples of 16"),
    ({"image_params": {"height": 48}}, "size_not_supported", "image_params.height", "from 64"),
    ({"image_params": {"width": 528}}, "size_not_supported", "image_params.width", "to 512"),
    ({"image_params": {"width": 512, "height": 512}}, "size_not_supported", "image_params", "131072 pixels"),
    ({"image_params": {"steps": 101}}, "too_many_steps", "image_params.steps", "at most 100"),
    ({"image_params": {"num_images": 5}}, "too_many_images", "image_params.num_images", "at most 4"),
    (
        {"image_params": {"num_images": 2, "width": 256, "height": 256}},
        "too_many_images",
        "image_params.num_images",
        "at most 1",
    ),
    ({"prompt": "x" * 51}, "prompt_too_long", "prompt", "at most 50"),
    ({"negative_prompt": "x" * 51}, "prompt_too_long", "negative_prompt", "at most 50"),
]


@pytest.mark.parametrize(("body", "code", "field", "sentence"), REFUSALS)
def test_an_impossible_request_is_refused_with_the_field_and_what_is_allowed(
    body: dict[str, object], code: str, field: str, sentence: str
):
    with pytest.raises(TaskError) as refused:
        accepted(**body)
    assert (refused.value.code(), refused.value.field) == (code, field)
    assert sentence in refused.value.detail


def test_a_model_without_negative_prompts_refuses_one():
    with pytest.raises(TaskError) as refused:
        accepted(CARD.model_copy(update={"negative_prompt": False}), negative_prompt="blurry")
    assert refused.value.code() == "negative_prompt_not_supported"


@pytest.mark.parametrize("created_at", [-1, 1.8e12, float("nan")])
def test_a_record_with_an_impossible_creation_time_is_not_read(created_at: float):
    from pydantic import ValidationError

    from tasks.task import TaskRecord

    with pytest.raises(ValidationError):
        TaskRecord.model_validate({"task_id": TASK_ID, "model_name": "m", "prompt": "p", "created_at": created_at})
