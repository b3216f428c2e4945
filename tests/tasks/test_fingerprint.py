"""A retry is recognised by what the client sent, whatever wrote the task and whatever reads it."""

import json
from typing import Any

import pytest

from tasks.accept import accept
from tasks.fingerprint import fingerprint, is_request_of, request_sha256
from tasks.task import GenerateRequest, RequestedLora, RequestedParams, Task
from tests.proofs.upgrade.reading import VERSIONS, sample
from tests.support.world import LANES, card

BODY: dict[str, Any] = {
    "model_name": "sd-mini",
    "prompt": "a red circle ☃",
    "image_params": {"guidance_scale": 5.0, "seed": 7},
    "loras": [{"name": "night", "weight": 2.0}],
    "start_within": 60.0,
}


def parsed(body: dict[str, Any] | str) -> GenerateRequest:
    return GenerateRequest.model_validate_json(body if isinstance(body, str) else json.dumps(body))


def print_of(body: dict[str, Any] | str) -> str:
    return request_sha256(parsed(body), "ai_image_gen")


@pytest.mark.parametrize(
    "same",
    [
        json.dumps(BODY, indent=3),
        json.dumps(BODY, ensure_ascii=False),
        json.dumps(dict(reversed(BODY.items()))),
        json.dumps(BODY).replace("5.0", "5").replace("2.0", "2").replace("60.0", "6e1"),
        BODY | {"image_params": {"seed": 7, "guidance_scale": 5.0}},
        BODY | {"image_params": {"seed": 7, "guidance_scale": 5.0, "width": None}},
        BODY | {"loras": [{"weight": 2.0, "name": "night"}]},
        BODY | {"negative_prompt": "", "previews": False, "topic": None, "max_runtime": None},
        BODY | {"user_id": "ada"},
    ],
)
def test_the_form_of_a_body_does_not_count(same: dict[str, Any] | str):
    assert print_of(same) == print_of(BODY)


@pytest.mark.parametrize(
    "other",
    [
        {"model_name": "stable-diffusion-v1-5"},
        {"prompt": "a red circle"},
        {"prompt": "a red circle ☃ "},
        {"negative_prompt": "blue"},
        {"image_params": {"guidance_scale": 5.0}},
        {"image_params": {"guidance_scale": 5.5, "seed": 7}},
        {"image_params": {"guidance_scale": 5.0, "seed": 7, "width": 64}},
        {"image_params": {}},
        {"loras": []},
        {"loras": ["night"]},
        {"loras": ["night", {"name": "night", "weight": 2.0}]},
        {"start_within": 61},
        {"max_runtime": 60},
        {"previews": True},
        {"topic": "online_task"},
        {"topic": "other.online_task"},
    ],
)
def test_what_is_sent_counts(other: dict[str, Any]):
    assert print_of(BODY | other) != print_of(BODY)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"topic": "online_task"}, {"topic": "ai_image_gen.online_task"}),
        ({"loras": ["night"]}, {"loras": [{"name": "night"}]}),
        ({"loras": ["night"]}, {"loras": [{"name": "night", "weight": 1}]}),
        ({"loras": [{"name": "night", "weight": 0}]}, {"loras": [{"name": "night", "weight": -0.0}]}),
        ({"image_params": {}}, {"image_params": {"seed": None}}),
        ({"image_params": {"guidance_scale": 0}}, {"image_params": {"guidance_scale": -0.0}}),
    ],
)
def test_two_forms_of_one_value_are_one_request(one: dict[str, Any], other: dict[str, Any]):
    assert print_of(BODY | one) == print_of(BODY | other)


class _NewerParams(RequestedParams):
    tiling: bool = False


class _NewerLora(RequestedLora):
    from_step: int = 0


class _NewerRequest(GenerateRequest):
    mask: str | None = None
    quality: str = "high"
    image_params: _NewerParams = _NewerParams()
    loras: tuple[_NewerLora, ...] = ()


NEW = [
    {"mask": "m"},
    {"image_params": {"seed": 7, "guidance_scale": 5.0, "tiling": True}},
    {"loras": [{"name": "night", "weight": 2.0, "from_step": 3}]},
]


@pytest.mark.parametrize("new", NEW)
def test_a_field_of_a_newer_version_counts_only_where_it_is_set(new: dict[str, Any]):
    for print_of_request in (fingerprint, lambda request: request_sha256(request, "ai_image_gen")):
        today = print_of_request(parsed(BODY))
        assert print_of_request(_NewerRequest.model_validate(BODY)) == today
        assert print_of_request(_NewerRequest.model_validate(BODY | new)) != today


@pytest.mark.parametrize("version", VERSIONS)
def test_gateways_of_two_versions_agree_on_the_fingerprint_of_a_body(version: str):
    request = GenerateRequest.model_validate_json(json.dumps(sample(version, "request")))
    assert fingerprint(request) == sample(version, "task")["fingerprint"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retry_of_a_task_of_an_older_version_is_recognised(version: str):
    task, body = Task.model_validate(sample(version, "task")), sample(version, "request")
    for topic in ("batch_task", "ai_image_gen.batch_task"):
        assert is_request_of(task, parsed(body | {"topic": topic}), "ai_image_gen")
    for other in ({"prompt": "another"}, {"topic": "online_task"}, {"loras": []}):
        assert not is_request_of(task, parsed(body | other), "ai_image_gen")


@pytest.mark.parametrize("written", [None, "batch_task", "ai_image_gen.batch_task"])
def test_an_older_task_on_a_lane_that_a_key_chose_is_recognised_without_that_key(written: str | None):
    """A gateway of 0.1.0 fingerprinted the full name of the lane that it chose for a limited key."""
    request = parsed(BODY)
    task = accept(request, task_id="0" * 32, models={"sd-mini": card()}, lanes=LANES[1:], created_at=1.0)
    older = fingerprint(request.model_copy(update={"topic": "ai_image_gen.batch_task"}))
    task = task.model_copy(update={"fingerprint": older})
    assert is_request_of(task, request.model_copy(update={"topic": written}), "ai_image_gen")
    assert not is_request_of(task, request.model_copy(update={"topic": "online_task"}), "ai_image_gen")


def test_a_task_without_a_fingerprint_was_made_of_no_request():
    request = parsed(BODY)
    task = accept(request, task_id="0" * 32, models={"sd-mini": card()}, lanes=LANES, created_at=1.0)
    assert not is_request_of(task, request, "ai_image_gen")
