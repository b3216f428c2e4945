"""Request bodies: one sound JSON object of the right type and size, or an error."""

import json

import pytest

from tests.support.gateway_world import BODY, is_problem, world

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
        answer = await client.post("/generate_image", content=WRONG_BODIES[why], headers=headers)
        problem = is_problem(answer, 400, "malformed_body")
        for word in ("Error", "Exceeds", "sys.", "int_max", "codec", "char "):
            assert word not in problem["detail"]


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
async def test_lone_surrogates_and_infinite_numbers_are_refused(body: bytes):
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
