"""The events of a task as a stream."""

import asyncio
import json

from adapters.clock import settle
from tests.support.gateway_world import BODY, until_waiting, world


async def test_the_events_of_a_task_end_with_its_end():
    async with world() as w:
        client, gateway = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        listening = asyncio.ensure_future(client.get(f"/events/{task.task_id}", headers={"Last-Event-ID": "x"}))
        await until_waiting(gateway)
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
