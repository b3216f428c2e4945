"""Submitting: what is accepted, what is refused and why, and what an Idempotency-Key promises."""

import json
from typing import Any

import pytest

from tests.support.gateway_world import BODY, is_problem, world
from tests.support.world import card

LANE = "ai_image_gen.online_task"


async def test_a_prompt_is_answered_with_a_task_that_is_on_its_lane():
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY)
        told = answer.json()
        assert answer.status_code == 202
        assert told["status"] == "queued"
        assert told["position"] == 0
        assert told["estimated_seconds"] > 0
        assert answer.headers["location"] == told["status_url"] == f"/check_status/{told['task_id']}"
        assert {"image_url", "progress", "images", "seed", "timings"} <= told.keys()
        (task,) = w.tasks()
        assert (task.task_id, task.topic, task.image_params.width) == (told["task_id"], LANE, 64)


async def test_the_position_counts_the_tasks_before_it():
    async with world() as w:
        client, _ = await w.gateway()
        positions = [(await client.post("/generate_image", json=BODY)).json()["position"] for _ in range(3)]
        assert positions == [0, 1, 2]


async def test_a_task_asked_for_by_an_alias_says_which_model_serves_it():
    async with world() as w:
        client, _ = await w.gateway()
        told = (await client.post("/generate_image", json={**BODY, "model_name": "stable-diffusion-v1-5"})).json()
        assert (told["model_name"], told["alias"]) == ("sd-mini", "stable-diffusion-v1-5")


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
async def test_what_cannot_be_done_is_refused_and_nothing_is_queued(change: dict[str, Any], code: str, field: str):
    async with world() as w:
        client, _ = await w.gateway()
        told = is_problem(await client.post("/generate_image", json={**BODY, **change}), 422, code)
        assert told["field"] == field
        assert w.tasks() == []


async def test_a_negative_prompt_is_refused_where_the_model_takes_none():
    async with world() as w:
        await w.log.append_card(card("plain", negative_prompt=False))
        client, _ = await w.gateway()
        asked = {**BODY, "model_name": "plain", "negative_prompt": "blue"}
        is_problem(await client.post("/generate_image", json=asked), 422, "negative_prompt_not_supported")


async def test_a_refusal_names_what_would_have_been_taken():
    async with world() as w:
        client, _ = await w.gateway()
        told = (await client.post("/generate_image", json={**BODY, "model_name": "x"})).json()
        assert told["allowed"] == ["sd-mini", "stable-diffusion-v1-5"]
        told = (await client.post("/generate_image", json={**BODY, "image_params": {"format": "gif"}})).json()
        assert told["allowed"] == ["png", "jpeg", "webp"]


WRONG_BODIES = {
    "no JSON": b"{",
    "empty": b"",
    "not UTF-8": b'{"model_name": "sd-mini", "prompt": "\xff"}',
    "UTF-16": json.dumps(dict(BODY)).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a list": b"[]",
    "NaN": b'{"model_name": "sd-mini", "prompt": "a", "start_within": NaN}',
    "Infinity": b'{"model_name": "sd-mini", "prompt": "a", "start_within": -Infinity}',
    "a key twice": b'{"model_name": "sd-mini", "prompt": "a", "prompt": "b"}',
    "a key twice, inside": b'{"model_name": "sd-mini", "prompt": "a", "image_params": {"seed": 1, "seed": 2}}',
    "a key twice, not text": b'{"\\ud800": 1, "\\ud800": 2}',
    "nested deeply": b"[" * 50_000 + b"]" * 50_000,
    "nested deeply, objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "an endless number": b'{"model_name": "sd-mini", "prompt": "a", "start_within": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("why", WRONG_BODIES)
async def test_a_body_that_is_not_one_sound_json_object_is_refused(why: str):
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Content-Type": "application/json"}
        is_problem(
            await client.post("/generate_image", content=WRONG_BODIES[why], headers=headers), 400, "malformed_body"
        )


@pytest.mark.parametrize(
    "body",
    [
        b'{"model_name": "sd-mini", "prompt": "\\ud800"}',
        b'{"model_name": "\\udfff", "prompt": "a"}',
        b'{"model_name": "sd-mini", "prompt": "a", "user_id": "\\ud800"}',
        b'{"model_name": "sd-mini", "prompt": "a", "\\ud800": 1}',
        b'{"model_name": "sd-mini", "prompt": "a", "topic": "\\ud800"}',
        b'{"model_name": "sd-mini", "prompt": "a", "image_params": {"scheduler": "\\ud800"}}',
        b'{"model_name": "sd-mini", "prompt": "a", "start_within": 1e999}',
        b'{"model_name": "sd-mini", "prompt": "a", "image_params": {"width": 1e400}}',
    ],
)
async def test_text_that_is_no_text_and_numbers_that_are_none_are_refused(body: bytes):
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert w.tasks() == []


async def test_a_body_of_another_type_or_too_large_is_refused_unread():
    async with world() as w:
        client, _ = await w.gateway()
        plain = {"Content-Type": "text/plain"}
        is_problem(await client.post("/generate_image", content=b"{}", headers=plain), 415, "unsupported_media_type")
        is_problem(await client.post("/generate_image", content=b"{}"), 415, "unsupported_media_type")
        headers = {"Content-Type": "application/json"}
        large = b" " * (w.settings.body_limit + 1)
        is_problem(await client.post("/generate_image", content=large, headers=headers), 413, "body_too_large")

        async def undeclared():
            for _ in range(100):
                yield b" " * (w.settings.body_limit // 10)
            raise AssertionError("read far beyond the limit")

        is_problem(await client.post("/generate_image", content=undeclared(), headers=headers), 413, "body_too_large")


async def test_the_same_key_and_body_is_the_same_task_at_every_gateway():
    async with world() as w:
        (first, _), (second, _) = await w.gateway(), await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        one = (await first.post("/generate_image", json=BODY, headers=headers)).json()
        reordered = dict(reversed(BODY.items()))
        two = (await second.post("/generate_image", json=reordered, headers=headers)).json()
        assert one["task_id"] == two["task_id"]
        assert len(w.tasks()) == 1


async def test_the_same_key_with_another_body_is_refused_and_with_another_user_is_another_task():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        one = (await client.post("/generate_image", json=BODY, headers=headers)).json()
        other = {**BODY, "prompt": "a blue circle"}
        is_problem(await client.post("/generate_image", json=other, headers=headers), 422, "idempotency_key_reused")
        ada = (await client.post("/generate_image", json={**BODY, "user_id": "ada"}, headers=headers)).json()
        assert ada["task_id"] != one["task_id"]
        assert len(w.tasks()) == 2


async def test_a_repeated_key_tells_how_the_task_ended_even_when_the_log_has_forgotten_it():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        one = (await client.post("/generate_image", json=BODY, headers=headers)).json()
        await w.end(w.tasks()[0], said=False)
        for lane in w.settings.lane_names:
            w.broker.topics[lane].clear()
        later, _ = await w.gateway()
        two = await later.post("/generate_image", json=BODY, headers=headers)
        assert (two.status_code, two.json()["task_id"], two.json()["status"]) == (200, one["task_id"], "completed")
        assert w.tasks() == []


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_refused(key: str):
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY, headers={"Idempotency-Key": key})
        is_problem(answer, 422, "invalid_request")


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
