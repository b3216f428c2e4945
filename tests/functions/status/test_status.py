"""Reading: status, pictures, cancel, events, waiting, models, and the routes around them."""

import asyncio
import json

import pytest

from adapters.clock import settle
from tests.support.gateway_world import BODY, PICTURE, is_problem, world

NOBODY = "0" * 32


async def test_the_status_follows_the_task_through_its_life():
    async with world() as w:
        client, _ = await w.gateway()
        url = (await client.post("/generate_image", json=BODY)).json()["status_url"]
        (task,) = w.tasks()
        await w.run(task, step=3)
        told = (await client.get(url)).json()
        assert (told["status"], told["position"], told["progress"]) == ("running", None, {"step": 3, "steps": 10})
        await w.end(task)
        told = (await client.get(url)).json()
        assert (told["status"], told["progress"]["step"]) == ("completed", 10)
        assert told["image_url"] == f"/get_image/{task.task_id}"
        assert told["images"][0]["size"] == len(PICTURE)


async def test_a_task_submitted_at_one_gateway_is_known_at_the_other_at_once():
    async with world() as w:
        (first, _), (second, _) = await w.gateway(), await w.gateway()
        await first.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        for number in range(5):
            later = task.model_copy(update={"task_id": f"{number:032x}"})
            await w.log.append_task(later)  # and the second gateway has had no turn to read it
            assert (await second.get(f"/check_status/{later.task_id}")).status_code == 200


async def test_a_failed_task_says_why():
    async with world() as w:
        client, _ = await w.gateway()
        url = (await client.post("/generate_image", json=BODY)).json()["status_url"]
        await w.end(w.tasks()[0], "failed", "out_of_memory")
        told = (await client.get(url)).json()
        assert told["error"] == {"code": "out_of_memory", "message": "It is out_of_memory."}
        assert told["error_message"] == "It is out_of_memory."


@pytest.mark.parametrize("path", ["/check_status/{}", "/get_image/{}", "/events/{}"])
@pytest.mark.parametrize("task_id", [NOBODY, "x", "A" * 32, NOBODY + "%0A", "%F0%9F%98%80", "%ED%A0%80", "%FF"])
async def test_an_id_of_no_task_is_unknown(path: str, task_id: str):
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get(path.format(task_id)), 404, "unknown_task")


async def test_unknown_is_never_said_while_the_queue_or_the_store_cannot_be_asked():
    async with world() as w:
        client, _ = await w.gateway()
        w.broker.down = True
        is_problem(await client.get(f"/check_status/{NOBODY}"), 503, "queue_unavailable")
        is_problem(await client.get("/check_status/x"), 404, "unknown_task")
        w.broker.down, w.store.down = False, True
        is_problem(await client.get(f"/check_status/{NOBODY}"), 503, "store_unavailable")


async def test_a_picture_is_given_as_a_file_that_never_changes():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        outcome = await w.end(task)
        url = f"/get_image/{task.task_id}"
        whole = await client.get(url)
        assert (whole.status_code, whole.content) == (200, PICTURE)
        assert whole.headers["content-type"] == "image/png"
        assert whole.headers["etag"] == f'"{outcome.images[0].sha256}"'
        assert "immutable" in whole.headers["cache-control"]
        head = await client.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(PICTURE)))
        for tags in (whole.headers["etag"], "*", f'"a", W/{whole.headers["etag"]}'):
            same = await client.get(url, headers={"If-None-Match": tags})
            assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=190-", 206, 190, 199),
        ("bytes=-10", 206, 190, 199),
        ("bytes=-999", 206, 0, 199),
        ("bytes=0-9999", 206, 0, 199),
        ("bytes=5-2", 200, 0, 199),
        ("bytes=a-b", 200, 0, 199),
        ("bytes=0-1,5-6", 200, 0, 199),
        ("lines=0-9", 200, 0, 199),
        ("bytes=200-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_a_range_of_a_picture_is_given_or_said_to_lie_outside(asked: str, status: int, first: int, last: int):
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task)
        answer = await client.get(f"/get_image/{task.task_id}", headers={"Range": asked})
        if status == 416:
            is_problem(answer, 416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{len(PICTURE)}"
            return
        assert (answer.status_code, answer.content) == (status, PICTURE[first : last + 1])
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(PICTURE)}"


async def test_a_range_of_another_version_gives_the_whole_picture():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        await w.end(task)
        headers = {"Range": "bytes=0-9", "If-Range": '"other"'}
        assert (await client.get(f"/get_image/{task.task_id}", headers=headers)).status_code == 200


async def test_a_picture_that_is_not_there_says_whether_it_will_be():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        url = f"/get_image/{task.task_id}"
        assert "queued" in is_problem(await client.get(url), 409, "image_not_ready")["detail"]
        await w.end(task)
        is_problem(await client.get(url, params={"index": 1}), 404, "unknown_image")
        for index in ("-1", "x", "1e3", "9" * 5000, "²"):
            is_problem(await client.get(url, params={"index": index}), 422, "invalid_request")
        await client.post("/generate_image", json=BODY)
        failed = w.tasks()[1]
        await w.end(failed, "failed", "generation_failed")
        is_problem(await client.get(f"/get_image/{failed.task_id}"), 410, "no_image")


async def test_a_cancel_is_told_to_the_owner_and_only_until_the_task_has_ended():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        url = f"/cancel_task/{task.task_id}"
        assert (await client.post(url)).status_code == 202
        assert w.cancels() == 1
        await w.end(task, "canceled", "canceled")
        answer = await client.post(url)
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
        assert w.cancels() == 1
        await client.post("/generate_image", json=BODY)
        done = w.tasks()[1]
        await w.end(done)
        is_problem(await client.post(f"/cancel_task/{done.task_id}"), 409, "already_ended")
        is_problem(await client.post(f"/cancel_task/{NOBODY}"), 404, "unknown_task")


async def test_a_wait_is_answered_when_the_task_ends():
    async with world() as w:
        client, gateway = await w.gateway()
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers={"Prefer": "wait=30"}))
        await _until_waiting(gateway)
        await w.run(w.tasks()[0], 1)
        assert not waiting.done()
        await w.end(w.tasks()[0])
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert answer.headers["preference-applied"] == "wait=30"


async def test_a_wait_that_is_over_first_is_answered_with_the_status():
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
        await _until_waiting(gateway)
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
async def test_a_wait_for_a_picture_that_never_came_is_a_problem_with_its_code(status, code: str, http: int):
    async with world() as w:
        client, gateway = await w.gateway()
        headers = {"Prefer": "wait=30", "Accept": "image/*"}
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers=headers))
        await _until_waiting(gateway)
        await w.end(w.tasks()[0], status, code)
        is_problem(await waiting, http, code)


async def test_a_picture_of_a_type_the_caller_does_not_take_is_refused_before_it_is_queued():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Prefer": "wait=30", "Accept": "image/webp"}
        is_problem(await client.post("/generate_image", json=BODY, headers=headers), 406, "not_acceptable")
        assert w.tasks() == []


async def test_a_gateway_that_ends_answers_every_wait():
    async with world() as w:
        client, gateway = await w.gateway()
        waiting = asyncio.ensure_future(client.post("/generate_image", json=BODY, headers={"Prefer": "wait=30"}))
        await _until_waiting(gateway)
        gateway.stop_waiting()
        answer = await asyncio.wait_for(waiting, 5)
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")


async def test_the_events_of_a_task_end_with_its_end():
    async with world() as w:
        client, gateway = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        listening = asyncio.ensure_future(client.get(f"/events/{task.task_id}", headers={"Last-Event-ID": "x"}))
        await _until_waiting(gateway)
        await settle()
        await w.run(task)
        await w.run(task, 4)
        await w.end(task)
        answer = await listening
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [block.split("\n") for block in answer.text.strip().split("\n\n")]
        kinds = [lines[0].removeprefix("event: ") for lines in events]
        states = [json.loads(lines[1].removeprefix("data: "))["status"] for lines in events]
        assert kinds == ["status", "status", "progress", "end"]
        assert states == ["queued", "running", "running", "completed"]


async def test_the_models_are_told_with_every_name_they_answer_to():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        models = {model["model_name"]: model for model in (await client.get("/models")).json()["models"]}
        assert models["sd-mini"]["alias_of"] is None
        assert models["sd-mini"]["queued"] == 1
        assert models["sd-mini"]["loras"] == ["night"]
        assert models["stable-diffusion-v1-5"]["alias_of"] == "sd-mini"


async def test_an_address_or_a_method_that_is_none_is_a_problem():
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get("/nowhere"), 404, "not_found")
        answer = await client.get("/generate_image")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"
        is_problem(await client.delete(f"/check_status/{NOBODY}"), 405, "method_not_allowed")


async def test_readiness_names_each_missing_thing():
    async with world() as w:
        client, _ = await w.gateway()
        assert (await client.get("/readyz")).status_code == 200
    async with world() as w:
        w.broker.down = w.store.down = True
        client, _ = await w.gateway()
        answer = await client.get("/readyz")
        is_problem(answer, 503, "starting_up")
        assert {"queue", "store", "models"} <= answer.json()["missing"].keys()
        assert (await client.get("/livez")).status_code == 200


async def test_the_metrics_count_requests_and_queue():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        text = (await client.get("/metrics")).text
        assert 'ai_image_gen_http_requests_total{route="/generate_image",status="202"} 1.0' in text
        assert 'ai_image_gen_gateway_queued{model="sd-mini"} 1.0' in text


async def test_the_documentation_needs_nothing_from_elsewhere():
    async with world() as w:
        client, _ = await w.gateway()
        for page in ("/docs", "/redoc", "/docs/errors"):
            answer = await client.get(page)
            assert answer.status_code == 200
            assert "https://" not in answer.text, page
        routes = (await client.get("/openapi.json")).json()["paths"]
        assert {"/generate_image", "/check_status/{task_id}", "/get_image/{task_id}"} <= routes.keys()


async def _until_waiting(gateway) -> None:
    async with asyncio.timeout(5):
        while not gateway.index.waiting:
            await asyncio.sleep(0)
    await settle()
