"""Submitting: what is accepted, and what is refused with which error."""

from typing import Any

import pytest

from tests.support.gateway_world import BODY, is_problem, world
from tests.support.world import card

LANE = "ai_image_gen.online_task"


async def test_a_prompt_is_answered_with_a_task_that_is_on_its_lane():
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY)
        document = answer.json()
        assert answer.status_code == 202
        assert document["status"] == "queued"
        assert document["position"] == 0
        assert document["estimated_seconds"] > 0
        assert answer.headers["location"] == document["status_url"] == f"/check_status/{document['task_id']}"
        assert {"image_url", "progress", "images", "seed", "timings"} <= document.keys()
        (task,) = w.tasks()
        assert (task.task_id, task.topic, task.image_params.width) == (document["task_id"], LANE, 64)


async def test_the_position_counts_the_tasks_before_it():
    async with world() as w:
        client, _ = await w.gateway()
        positions = [(await client.post("/generate_image", json=BODY)).json()["position"] for _ in range(3)]
        assert positions == [0, 1, 2]


async def test_a_task_asked_for_by_an_alias_says_which_model_serves_it():
    async with world() as w:
        client, _ = await w.gateway()
        document = (await client.post("/generate_image", json={**BODY, "model_name": "stable-diffusion-v1-5"})).json()
        assert (document["model_name"], document["alias"]) == ("sd-mini", "stable-diffusion-v1-5")


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"model_name": "nothing"}, "unknown_model", "model_name"),
        ({"topic": "nowhere"}, "unknown_lane", "topic"),
        ({"loras": ["day"]}, "unknown_lora", "loras.0"),
        ({"image_params": {"scheduler": "none"}}, "unknown_scheduler", "image_params.scheduler"),
        ({"image_params": {"width": 65}}, "size_not_supported", "image_params.width"),
        ({"image_params": {"height": 4096}}, "size_not_supported", "image_params.height"),
        ({"image_params": {"steps": 101}}, "too_many_steps", "image_params.steps"),
        ({"image_params": {"num_images": 5}}, "too_many_images", "image_params.num_images"),
        ({"prompt": "x" * 1001}, "prompt_too_long", "prompt"),
        ({"prompt": ""}, "invalid_request", "prompt"),
        ({"prompt": 7}, "invalid_request", "prompt"),
        ({"image_params": {"format": "gif"}}, "invalid_request", "image_params.format"),
        ({"image_params": {"width": "64"}}, "invalid_request", "image_params.width"),
        ({"image_params": {"seed": -1}}, "invalid_request", "image_params.seed"),
        ({"loras": [{"name": "night", "weight": 9}]}, "invalid_request", "loras.0.weight"),
        ({"colour": "red"}, "invalid_request", "colour"),
    ],
)
async def test_a_request_the_model_cannot_do_is_refused_and_nothing_is_queued(
    change: dict[str, Any], code: str, field: str
):
    async with world() as w:
        client, _ = await w.gateway()
        problem = is_problem(await client.post("/generate_image", json={**BODY, **change}), 422, code)
        assert problem["field"] == field
        assert w.tasks() == []


async def test_a_negative_prompt_is_refused_where_the_model_takes_none():
    async with world() as w:
        await w.log.append_card(card("plain", negative_prompt=False))
        client, _ = await w.gateway()
        body = {**BODY, "model_name": "plain", "negative_prompt": "blue"}
        is_problem(await client.post("/generate_image", json=body), 422, "negative_prompt_not_supported")


async def test_a_refusal_names_what_would_have_been_accepted():
    async with world() as w:
        client, _ = await w.gateway()
        document = (await client.post("/generate_image", json={**BODY, "model_name": "x"})).json()
        assert document["allowed"] == ["sd-mini", "stable-diffusion-v1-5"]
        document = (await client.post("/generate_image", json={**BODY, "image_params": {"format": "gif"}})).json()
        assert document["allowed"] == ["png", "jpeg", "webp"]


async def test_with_the_queue_away_a_submit_says_so_and_works_again_when_it_is_back():
    async with world() as w:
        client, _ = await w.gateway()
        w.broker.down = True
        answer = await client.post("/generate_image", json=BODY)
        is_problem(answer, 503, "queue_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        w.broker.down = False
        assert (await client.post("/generate_image", json=BODY)).status_code == 202


async def test_with_the_store_away_only_a_key_is_refused():
    async with world() as w:
        client, _ = await w.gateway()
        w.store.down = True
        assert (await client.post("/generate_image", json=BODY)).status_code == 202
        answer = await client.post("/generate_image", json=BODY, headers={"Idempotency-Key": "k"})
        is_problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
