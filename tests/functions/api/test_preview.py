"""Previews of a running task: one at its own address, each in the event stream, for the task's owner alone."""

import asyncio
import base64
import json
from pathlib import Path

from adapters.clock import settle
from functions.api.api_keys import new_key
from tests.support.gateway_world import BODY, is_problem, until_waiting, world


async def test_the_newest_preview_of_a_running_task_has_an_address():
    async with world() as w:
        client, _ = await w.gateway()
        document = (await client.post("/generate_image", json={**BODY, "previews": True})).json()
        address = f"/preview/{document['task_id']}"
        assert document["preview_url"] is None
        is_problem(await client.get(address), 404, "no_preview")
        (task,) = w.tasks()
        await w.run(task)
        for step in (1, 2):
            await w.preview(task, step, image=f"step {step}".encode())
        assert (await client.get(f"/check_status/{task.task_id}")).json()["preview_url"] == address
        answer = await client.get(address)
        assert (answer.status_code, answer.content) == (200, b"step 2")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-preview-step"] == "2"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_preview_is_gone_when_the_task_has_ended():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json={**BODY, "previews": True})
        (task,) = w.tasks()
        await w.run(task)
        await w.preview(task)
        await w.end(task)
        await w.preview(task, 9)
        is_problem(await client.get(f"/preview/{task.task_id}"), 404, "no_preview")
        assert (await client.get(f"/check_status/{task.task_id}")).json()["preview_url"] is None


async def test_the_event_stream_sends_each_new_preview_once():
    async with world() as w:
        client, gateway = await w.gateway()
        await client.post("/generate_image", json={**BODY, "previews": True})
        (task,) = w.tasks()
        listening = asyncio.ensure_future(client.get(f"/events/{task.task_id}"))
        await until_waiting(gateway)
        await settle()
        await w.run(task)
        await w.preview(task, 1, image=b"first")
        await w.run(task, 2)
        await w.preview(task, 2, image=b"second")
        await w.end(task)
        blocks = [block.split("\n") for block in (await listening).text.strip().split("\n\n")]
        events = [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]
        assert [kind for kind, _ in events] == ["status", "status", "preview", "progress", "preview", "end"]
        previews = [data for kind, data in events if kind == "preview"]
        assert [base64.b64decode(data["image"]) for data in previews] == [b"first", b"second"]
        assert [(data["step"], data["content_type"]) for data in previews] == [(1, "image/jpeg"), (2, "image/jpeg")]


async def test_a_stream_that_connects_later_gets_the_newest_preview_at_once():
    async with world() as w:
        client, gateway = await w.gateway()
        await client.post("/generate_image", json={**BODY, "previews": True})
        (task,) = w.tasks()
        await w.run(task)
        await w.preview(task, 3)
        listening = asyncio.ensure_future(client.get(f"/events/{task.task_id}"))
        await until_waiting(gateway)
        await settle()
        await w.end(task)
        kinds = [line for line in (await listening).text.split("\n") if line.startswith("event: ")]
        assert kinds == ["event: status", "event: preview", "event: end"]


async def test_only_the_owner_of_a_task_sees_its_preview(tmp_path: Path):
    keys = {user: new_key(user) for user in ("ada", "bob")}
    (tmp_path / "keys").write_text("\n".join(line.model_dump_json(exclude_none=True) for _, line in keys.values()))
    async with world(api_keys_file=tmp_path / "keys") as w:
        client, _ = await w.gateway()
        headers = {user: {"Authorization": f"Bearer {key}"} for user, (key, _) in keys.items()}
        await client.post("/generate_image", json={**BODY, "previews": True}, headers=headers["ada"])
        (task,) = w.tasks()
        await w.run(task)
        await w.preview(task)
        address = f"/preview/{task.task_id}"
        assert (await client.get(address, headers=headers["ada"])).status_code == 200
        is_problem(await client.get(address, headers=headers["bob"]), 404, "unknown_task")
        is_problem(await client.get(address), 401, "unauthorized")
