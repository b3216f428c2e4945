"""`Prefer: wait`: answered when the task ends, by the status or by the image itself."""

import asyncio

import pytest

from tests.support.gateway_world import BODY, PICTURE, is_problem, until_waiting, world


async def test_a_wait_is_answered_when_the_task_ends():
    async with world() as w:
        client, gateway = await w.gateway()
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers={"Prefer": "wait=30"}))
        await until_waiting(gateway)
        await w.run(w.tasks()[0], 1)
        assert not waiting.done()
        await w.end(w.tasks()[0])
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert answer.headers["preference-applied"] == "wait=30"


async def test_a_wait_that_runs_out_is_answered_with_the_status():
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY, headers={"Prefer": "respond-async, wait=0"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/*", "image/png"),
        ("image/png", "image/png"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png"),
        ("application/json, image/*;q=0.5", "application/json"),
        ("*/*", "application/json"),
        ("image/png;q=0, */*", "application/json"),
    ],
)
async def test_a_finished_wait_gives_what_the_caller_accepts(accept: str, kind: str):
    async with world() as w:
        client, gateway = await w.gateway()
        headers = {"Prefer": "wait=30", "Accept": accept}
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers=headers))
        await until_waiting(gateway)
        await w.end(w.tasks()[0])
        answer = await waiting
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert (answer.content == PICTURE) == (kind == "image/png")


@pytest.mark.parametrize(
    ("status", "code", "http"),
    [
        ("failed", "out_of_memory", 500),
        ("failed", "generation_failed", 500),
        ("failed", "broken_picture", 500),
        ("failed", "lora_unusable", 500),
        ("failed", "worker_failed", 500),
        ("failed", "runner_lost", 502),
        ("failed", "ran_too_long", 410),
        ("expired", "started_too_late", 410),
        ("canceled", "canceled", 410),
    ],
)
async def test_a_wait_for_an_image_of_a_failed_task_is_a_problem_with_its_code(status, code: str, http: int):
    async with world() as w:
        client, gateway = await w.gateway()
        headers = {"Prefer": "wait=30", "Accept": "image/*"}
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers=headers))
        await until_waiting(gateway)
        await w.end(w.tasks()[0], status, code)
        is_problem(await waiting, http, code)


async def test_an_image_type_the_client_does_not_accept_is_refused_before_queueing():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Prefer": "wait=30", "Accept": "image/webp"}
        is_problem(await client.post("/generate_image", json=BODY, headers=headers), 406, "not_acceptable")
        assert w.tasks() == []


async def test_a_preference_in_a_later_line_counts_too():
    async with world(wait_limit=0.01) as w:
        client, _ = await w.gateway()
        lines = [("Prefer", "respond-async"), ("Prefer", "wait=5")]
        answer = await client.post("/generate_image", json=BODY, headers=lines)
        assert answer.headers["preference-applied"] == "wait=0.01"
