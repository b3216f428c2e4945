"""Outcomes, previews and inputs that somebody forged who may write to Kafka, or who planted one outcome.json, but who
cannot read the store: nothing is served that does not belong to the task, and the real outcome still counts."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.clock import settle
from functions.api.api_keys import new_key
from tasks.preview import Preview
from tasks.task import Task
from tests.support.gateway_world import BODY, PICTURE, GatewayWorld, is_problem, until_waiting, world

SECRET = b"s" * 32
OTHER = "e" * 32
"""The id of another task, whose picture is in the store."""
PAGE = b"<script>alert(1)</script>"


async def submitted(w: GatewayWorld, client: httpx.AsyncClient, **body: Any) -> Task:
    """One more task."""
    before = {task.task_id for task in w.tasks()}
    answer = await client.post("/generate_image", json={**BODY, **body})
    assert answer.status_code == 202, answer.text
    return next(task for task in w.tasks() if task.task_id not in before)


def image(key: str, data: bytes, content_type: str = "image/png", **more: Any) -> dict[str, Any]:
    """An image as an outcome lists it."""
    fields = {"key": key, "content_type": content_type, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {**fields, "width": 64, "height": 64, "seed": 1, **more}


def forged(of: Task, *images: dict[str, Any], **more: Any) -> bytes:
    """An outcome of the task with these images, as JSON."""
    fields = {"kind": "outcome", "task_id": of.task_id, "at": 1.0, "status": "completed", "attempt": 1}
    return json.dumps({**fields, "task": json.loads(of.model_dump_json()), "images": images, **more}).encode()


async def announce(w: GatewayWorld, task: Task, value: bytes, key: str | None = None) -> None:
    """Write this value to the events topic, as any Kafka client may."""
    partition = w.broker.partition_of(task.model_name)
    w.broker.append(w.log.events_topic, partition, task.task_id if key is None else key, value, {})
    await settle()


async def fill(w: GatewayWorld) -> None:
    """Put into the store what nobody but its owner may read."""
    w.store.objects["system/id_secret"] = SECRET
    w.store.objects[f"tasks/{OTHER}/1-0.png"] = PICTURE
    w.store.objects[f"tasks/{OTHER}/outcome.json"] = PAGE
    w.store.objects["inputs/ada/0f3a"] = PICTURE


KEYS = {
    "the id secret": "system/id_secret",
    "the id secret through the task's folder": "tasks/{id}/../../system/id_secret",
    "another task's picture": f"tasks/{OTHER}/1-0.png",
    "another task's picture by dots": "tasks/{id}/../" + OTHER + "/1-0.png",
    "another task's outcome": f"tasks/{OTHER}/outcome.json",
    "the task's own outcome": "tasks/{id}/outcome.json",
    "somebody's input": "inputs/ada/0f3a",
    "an absolute key": "/tasks/{id}/1-0.png",
    "an address": "http://127.0.0.1/tasks/{id}/1-0.png",
    "percent-encoded dots": "tasks/{id}/%2e%2e/%2e%2e/system/id_secret",
    "a percent-encoded slash": "tasks/{id}%2f..%2f..%2fsystem%2fid_secret",
    "backslashes": "tasks\\{id}\\..\\..\\system\\id_secret",
    "a folder within": "tasks/{id}/a/1-0.png",
    "a double slash": "tasks/{id}//1-0.png",
    "no name": "tasks/{id}/",
    "dots alone": "tasks/{id}/..",
    "an empty key": "",
    "a very long key": "tasks/{id}/" + "a" * 5000 + ".png",
    "unicode": "tasks/{id}/\u202egnp.1",
    "a slash that only looks like one": "tasks/{id}\u2215..\u2215..\u2215system\u2215id_secret",
    "a line break": "tasks/{id}/1-0.png\n",
    "a NUL": "tasks/{id}/1-0.png\x00",
    "upper case": "TASKS/{id}/1-0.png",
}


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "planted in the store"])
@pytest.mark.parametrize("what", KEYS)
async def test_no_outcome_makes_the_gateway_serve_an_object_that_is_not_the_tasks_own(what: str, announced: bool):
    async with world() as w:
        await fill(w)
        client, _ = await w.gateway()
        task = await submitted(w, client)
        key = KEYS[what].replace("{id}", task.task_id)
        data = w.store.objects.setdefault(key, PICTURE)
        if announced:
            await announce(w, task, forged(task, image(key, data)))
        else:
            task = task.model_copy(update={"task_id": "d" * 32})
            w.store.objects[f"tasks/{task.task_id}/outcome.json"] = forged(task, image(key, data))
        answer = await client.get(f"/get_image/{task.task_id}")
        is_problem(answer, *((409, "image_not_ready") if announced else (410, "untrusted_outcome")))
        status = await client.get(f"/check_status/{task.task_id}")
        assert status.status_code == (200 if announced else 410)
        assert not announced or status.json()["status"] == "queued"


@pytest.mark.parametrize("what", KEYS)
async def test_after_a_forged_outcome_the_real_one_still_counts(what: str):
    async with world() as w:
        await fill(w)
        client, _ = await w.gateway()
        task = await submitted(w, client)
        await announce(w, task, forged(task, image(KEYS[what].replace("{id}", task.task_id), SECRET)))
        await w.end(task)
        assert (await client.get(f"/check_status/{task.task_id}")).json()["status"] == "completed"
        assert (await client.get(f"/get_image/{task.task_id}")).content == PICTURE


FORGED = {
    "another task's id inside": lambda task: forged(task, task=json.loads(task.model_dump_json()) | {"task_id": OTHER}),
    "more images than were asked for": lambda task: forged(
        task, *(image(f"tasks/{task.task_id}/1-{n}.png", PICTURE) for n in range(9))
    ),
    "a hash that is none": lambda task: forged(task, image(f"tasks/{task.task_id}/1-0.png", PICTURE, sha256="x")),
    "a hash that is a header": lambda task: forged(
        task, image(f"tasks/{task.task_id}/1-0.png", PICTURE, sha256='"\r\nX-Forged: 1')
    ),
    "a hash of letters that no header can hold": lambda task: forged(
        task, image(f"tasks/{task.task_id}/1-0.png", PICTURE, sha256="\u2028" * 64)
    ),
    "a negative size": lambda task: forged(task, image(f"tasks/{task.task_id}/1-0.png", PICTURE, size=-5)),
}


@pytest.mark.parametrize("what", FORGED)
async def test_an_outcome_that_contradicts_itself_ends_no_task(what: str):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        w.store.objects[f"tasks/{task.task_id}/1-0.png"] = PICTURE
        await announce(w, task, FORGED[what](task))
        assert (await client.get(f"/check_status/{task.task_id}")).json()["status"] == "queued"
        is_problem(await client.get(f"/get_image/{task.task_id}"), 409, "image_not_ready")
        await w.end(task)
        assert (await client.get(f"/get_image/{task.task_id}")).content == PICTURE


@pytest.mark.parametrize("task_id", ["../x", "..", "x/../../system/id_secret", "%2e%2e", "A" * 32, "", "\u0661" * 32])
async def test_an_outcome_of_a_task_whose_id_is_a_path_is_no_task(task_id: str):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        strange = task.model_copy(update={"task_id": task_id})
        await announce(w, strange, forged(strange, image(f"tasks/{task_id}/1-0.png", PICTURE)))
        answer = await client.get(f"/check_status/{httpx.URL(path='/' + task_id).raw_path.decode()[1:]}")
        assert answer.status_code in (404, 405)
        assert (await client.get(f"/check_status/{task.task_id}")).json()["status"] == "queued"


@pytest.mark.parametrize(
    "content_type", ["text/html", "image/svg+xml", "image/png\r\nX: 1", "text/html; charset=utf-8"]
)
async def test_the_type_of_a_picture_comes_from_the_service_and_no_page_can_run(content_type: str):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        key = f"tasks/{task.task_id}/1-0.png"
        await w.store.put_image(key, PAGE, "text/html")
        await announce(w, task, forged(task, image(key, PAGE, content_type)))
        answer = await client.get(f"/get_image/{task.task_id}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await client.get(f"/check_status/{task.task_id}")).json()["images"][0]["content_type"] == "image/png"


async def test_a_picture_of_a_format_that_only_a_newer_version_knows_is_served_as_bytes():
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        key = f"tasks/{task.task_id}/1-0.html"
        await w.store.put_image(key, PAGE, "text/html")
        await announce(w, task, forged(task, image(key, PAGE, "text/html")))
        answer = await client.get(f"/get_image/{task.task_id}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}, {"Range": "bytes=-1"}, {"If-Range": "x"}])
@pytest.mark.parametrize("picture", [PICTURE, PICTURE * 4000], ids=["one piece", "several pieces"])
async def test_an_object_that_is_not_the_recorded_one_is_not_served(headers: dict[str, str], picture: bytes):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        outcome = await w.end(task, picture=picture)
        for data in (b"", SECRET, picture[:-1], picture + b"x", PAGE + picture[len(PAGE) :], picture[:-1] + b"x"):
            w.store.objects[outcome.images[0].key] = data
            answer = await client.get(f"/get_image/{task.task_id}", headers=headers)
            is_problem(answer, 410, "untrusted_outcome")


async def test_a_hash_that_was_guessed_wrong_gets_the_picture_of_the_real_outcome():
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        real = image(f"tasks/{task.task_id}/1-0.png", PICTURE)
        await announce(w, task, forged(task, real | {"sha256": "0" * 64}))
        await w.end(task)
        answer = await client.get(f"/get_image/{task.task_id}")
        assert (answer.status_code, answer.content) == (200, PICTURE)
        assert answer.headers["etag"] == f'"{real["sha256"]}"'


@pytest.mark.parametrize("status", ["completed", "failed", "canceled", "expired"])
async def test_a_picture_that_was_stored_is_served_whatever_end_was_announced(status: str):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        failure = {"error": {"code": "generation_failed", "message": "forged"}} if status == "failed" else {}
        await announce(w, task, forged(task, status=status, **failure))
        is_problem(await client.get(f"/get_image/{task.task_id}"), 410, "no_image")
        await w.end(task)
        assert (await client.get(f"/get_image/{task.task_id}")).content == PICTURE


async def test_a_planted_outcome_of_another_task_is_refused_on_every_route():
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        await w.end(task)
        stored = w.store.objects[f"tasks/{task.task_id}/outcome.json"]
        w.store.objects[f"tasks/{OTHER}/outcome.json"] = stored
        for method, path in (
            ("GET", "/check_status/{}"), ("GET", "/get_image/{}"), ("GET", "/preview/{}"), ("GET", "/events/{}"),
            ("POST", "/cancel_task/{}"),
        ):  # fmt: skip
            is_problem(await client.request(method, path.format(OTHER)), 410, "untrusted_outcome")
        assert (await client.get(f"/get_image/{task.task_id}")).content == PICTURE


async def test_nobody_gets_a_picture_by_a_record_or_event_that_says_the_task_is_theirs(tmp_path: Path):
    keys = {user: new_key(user) for user in ("ada", "eve")}
    (tmp_path / "keys").write_text("\n".join(line.model_dump_json(exclude_none=True) for _, line in keys.values()))
    ada, eve = ({"Authorization": f"Bearer {key}"} for key, _ in keys.values())
    async with world(api_keys_file=tmp_path / "keys") as w:
        first, _ = await w.gateway()
        await first.post("/generate_image", json=BODY, headers=ada)
        (task,) = w.tasks()
        outcome = await w.end(task, announced=False)
        stolen = task.model_copy(update={"user_id": "eve"})
        # What a gateway reads that was started when the log no longer held ada's record: the event alone ...
        for lane in w.settings.lane_names:
            for partition, records in w.broker.topics[lane].items():
                w.broker.committed[lane, partition] = len(records)
        await announce(w, task, forged(stolen, *(image.model_dump() for image in outcome.images)))
        second, _ = await w.gateway()
        for path in ("/check_status/", "/get_image/", "/events/", "/preview/"):
            is_problem(await second.get(path + task.task_id, headers=eve), 404, "unknown_task")
        assert (await second.get(f"/get_image/{task.task_id}", headers=ada)).content == PICTURE
        # ... and then a record of the same id: what eve sees then is what she wrote, but no picture.
        await w.log.append_task(stolen)
        await settle()
        is_problem(await second.get(f"/get_image/{task.task_id}", headers=eve), 404, "unknown_task")
        # The consumer runs that record, finds ada's outcome and announces it.
        third, _ = await w.gateway()
        await w.log.append_event(outcome, w.broker.partition_of(task.model_name))
        await settle()
        is_problem(await third.get(f"/get_image/{task.task_id}", headers=eve), 404, "unknown_task")


async def test_a_record_with_the_id_of_anothers_task_shows_nothing_of_its_outcome(tmp_path: Path):
    keys = {user: new_key(user) for user in ("ada", "eve")}
    (tmp_path / "keys").write_text("\n".join(line.model_dump_json(exclude_none=True) for _, line in keys.values()))
    ada, eve = ({"Authorization": f"Bearer {key}"} for key, _ in keys.values())
    async with world(api_keys_file=tmp_path / "keys") as w:
        first, _ = await w.gateway()
        await first.post("/generate_image", json=BODY, headers=ada)
        (task,) = w.tasks()
        outcome = await w.end(task, announced=False)
        for lane in w.settings.lane_names:
            for partition, records in w.broker.topics[lane].items():
                w.broker.committed[lane, partition] = len(records)
        second, gateway = await w.gateway()
        await w.log.append_task(task.model_copy(update={"user_id": "eve"}))
        await settle()
        listening = asyncio.ensure_future(second.get(f"/events/{task.task_id}", headers=eve))
        waiting = asyncio.ensure_future(
            second.get(f"/check_status/{task.task_id}", headers=eve | {"Prefer": "wait=30"})
        )
        await until_waiting(gateway)
        # A consumer that runs the record finds ada's outcome in the store and announces it.
        await w.log.append_event(outcome, w.broker.partition_of(task.model_name))
        is_problem(await waiting, 404, "unknown_task")
        assert outcome.images[0].sha256 not in (events := (await listening).text)
        assert "event: end" not in events
        for path in ("/check_status/", "/get_image/", "/events/", "/preview/"):
            is_problem(await second.get(path + task.task_id, headers=eve), 404, "unknown_task")
        assert (await second.get(f"/get_image/{task.task_id}", headers=ada)).content == PICTURE


@pytest.mark.parametrize("secret", [b"", b"short", b"s" * 31, b"s" * 33, PAGE])
async def test_a_planted_secret_of_another_length_makes_no_ids(secret: bytes):
    async with world() as w:
        w.store.objects["system/id_secret"] = secret
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY, headers={"Idempotency-Key": "k"})
        is_problem(answer, 503, "store_unavailable")
        assert w.tasks() == []
        assert (await client.post("/generate_image", json=BODY)).status_code == 202


async def previewed(w: GatewayWorld, task: Task, **fields: Any) -> None:
    """Write a preview of the task, as any Kafka client may."""
    preview = {"task_id": task.task_id, "attempt": 1, "owner": "o", "step": 1, "steps": 10, "at": 1.0, "image": b"x"}
    w.log.emit_preview(Preview.model_validate(preview | fields))
    await settle()


@pytest.mark.parametrize("fields", [{"owner": "mallory"}, {"attempt": 2**40}, {"attempt": 2, "owner": "mallory"}])
async def test_a_preview_of_another_owner_or_attempt_is_not_shown(fields: dict[str, Any]):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client, previews=True)
        await previewed(w, task, **fields)
        await w.run(task)
        await previewed(w, task, image=b"forged", **fields)
        is_problem(await client.get(f"/preview/{task.task_id}"), 404, "no_preview")
        await previewed(w, task, step=2, image=b"real")
        answer = await client.get(f"/preview/{task.task_id}")
        assert (answer.content, answer.headers["content-type"]) == (b"real", "image/jpeg")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_task_that_asked_for_no_previews_shows_none():
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client)
        await w.run(task)
        await previewed(w, task)
        is_problem(await client.get(f"/preview/{task.task_id}"), 404, "no_preview")


async def test_previews_of_unknown_tasks_push_no_other_preview_out():
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client, previews=True)
        await w.run(task)
        await previewed(w, task)
        for number in range(1100):
            await previewed(w, task.model_copy(update={"task_id": f"{number:032x}"}))
        assert (await client.get(f"/preview/{task.task_id}")).status_code == 200


@pytest.mark.parametrize("value", [b"text/html", b"image/svg+xml"])
async def test_a_preview_that_says_it_is_a_page_is_none(value: bytes):
    async with world() as w:
        client, _ = await w.gateway()
        task = await submitted(w, client, previews=True)
        await w.run(task)
        preview = Preview(task_id=task.task_id, attempt=1, owner="o", step=1, steps=9, at=1.0, image=PAGE)
        record = preview.model_dump_json().encode().replace(b"image/jpeg", value)
        w.broker.append("previews", 0, task.task_id, record, {})
        await settle()
        is_problem(await client.get(f"/preview/{task.task_id}"), 404, "no_preview")
