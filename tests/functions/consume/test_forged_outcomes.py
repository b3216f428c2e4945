"""Outcomes that somebody else wrote: an event ends no task unless its owner can have written it, and a task whose
outcome.json was planted fails with a code of its own. No detail of an exception reaches the user."""

import json
import re

import pytest

from adapters.clock import settle
from adapters.memory_log import DEAD_LETTERS, EVENTS
from adapters.memory_store import MemoryStore
from functions.consume.triggers.push import PushConsumer
from tasks.errors import GenerationFailed, LoraUnusable, RunnerLost, TaskError, from_code
from tasks.log import Record
from tasks.task import Task
from tests.support.world import LANES, World, world

SECRET = "http://user:secret@10.0.0.1:9000"


def foreign(task: Task, key: str) -> bytes:
    """An outcome event of the task whose image is this object."""
    image = {"key": key, "content_type": "image/png", "size": 1, "sha256": "0" * 64, "width": 1, "height": 1, "seed": 1}
    fields = {"kind": "outcome", "task_id": task.task_id, "at": 1.0, "status": "completed", "attempt": 1}
    return json.dumps({**fields, "task": json.loads(task.model_dump_json()), "images": [image]}).encode()


@pytest.mark.parametrize("key", ["system/id_secret", "tasks/{id}/../x.png", "tasks/{id}/outcome.json", "/a.png", ""])
async def test_a_forged_outcome_stops_no_attempt_and_becomes_a_dead_letter(key: str):
    async with world() as w:
        await w.start()
        task = await w.submit()
        await w.clock.advance(0.3)
        value = foreign(task, key.replace("{id}", task.task_id))
        w.broker.append(EVENTS, w.broker.partition_of(task.model_name), task.task_id, value, {})
        await settle()
        await w.clock.advance(5)
        assert [letter.value for letter in w.broker.topics[DEAD_LETTERS][0]] == [value]
        assert w.started(task) == [1]
        stored = json.loads(w.store.objects[f"tasks/{task.task_id}/outcome.json"])
        assert stored["status"] == "completed"
        assert all(key in w.store.objects for key in [image["key"] for image in stored["images"]])


async def planted(w: World, task: Task) -> None:
    """Put another task's outcome where this task's will be."""
    other = await w.submit()
    await w.clock.advance(5)
    w.store.objects[f"tasks/{task.task_id}/outcome.json"] = w.store.objects[f"tasks/{other.task_id}/outcome.json"]


def announced(w: World, task: Task) -> list[dict[str, object]]:
    """The outcome events of the task."""
    events = [json.loads(record.value) for records in w.broker.topics[EVENTS].values() for record in records]
    return [event for event in events if event["kind"] == "outcome" and event["task_id"] == task.task_id]


async def test_a_task_whose_outcome_was_planted_fails_and_leaves_no_picture():
    async with world() as w:
        w.runner.step_seconds = 5
        await w.start()
        task = await w.submit()
        await w.clock.advance(1)
        pictures = {key for key in w.store.objects if key.endswith(".png")}
        w.store.objects[f"tasks/{task.task_id}/outcome.json"] = foreign(task, "system/id_secret")
        await w.clock.advance(120)
        (event,) = announced(w, task)
        assert (event["status"], event["images"]) == ("failed", [])
        assert event["error"] == {"code": "untrusted_outcome", "message": from_code("untrusted_outcome", "").title()}
        assert {key for key in w.store.objects if key.endswith(".png")} == pictures
        assert w.watermark_at_end()


async def test_a_consumer_that_takes_a_task_over_is_not_stopped_by_a_planted_outcome():
    async with world() as w:
        w.runner.step_seconds = 5
        first = await w.start()
        task = await w.submit()
        await w.clock.advance(1)
        await first.kill()
        w.store.objects[f"tasks/{task.task_id}/outcome.json"] = foreign(task, "system/id_secret")
        await w.start()
        await w.clock.advance(300)
        (event,) = announced(w, task)
        assert event["status"] == "failed"
        assert w.watermark_at_end()


async def test_a_pushed_record_whose_outcome_was_planted_fails():
    async with world() as w:
        running = await w.start()
        task = await w.submit()
        await w.clock.advance(5)
        push = PushConsumer(running.consumer, LANES, w.client, w.clock, 600.0)
        await push.look()
        (record,) = [r for records in w.broker.topics[LANES[0]].values() for r in records]
        moved = record.value.replace(task.task_id.encode(), b"d" * 32)
        w.store.objects[f"tasks/{'d' * 32}/outcome.json"] = foreign(task, "system/id_secret")
        outcome = await push.finish(Record("task", record.place, record.timestamp, record.key, moved), 60)
        assert outcome is not None
        assert outcome.error is not None
        assert outcome.error.code == "untrusted_outcome"


class Leaky(MemoryStore):
    """A store that fails with an error that quotes its address."""

    async def put_image(self, key: str, data: bytes, content_type: str) -> None:
        """See ImageStore."""
        raise ValueError(SECRET)


@pytest.mark.parametrize(
    "error",
    [
        GenerationFailed(f"OSError: {SECRET}"),
        RunnerLost(f"Cannot connect to host {SECRET}"),
        LoraUnusable(f"KeyError: {SECRET}"),
        from_code(f"melted at {SECRET}", SECRET),
    ],
    ids=lambda error: error.code(),
)
async def test_the_text_of_an_exception_of_a_runner_does_not_reach_the_user(
    error: TaskError, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    async with world() as w:
        w.runner.fail_next = [error] * 3
        await w.start()
        task = await w.submit()
        await w.clock.advance(60)
        outcome = w.outcome(task)
        assert outcome is not None
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.message) == (error.code(), error.title())
        assert SECRET.encode() not in w.store.objects[f"tasks/{task.task_id}/outcome.json"]
    assert any(SECRET in str(vars(record)) for record in caplog.records), "the operator must find the cause"


async def test_the_text_of_an_exception_of_the_consumer_does_not_reach_the_user():
    async with world(store=Leaky()) as w:
        await w.start()
        task = await w.submit()
        await w.clock.advance(60)
        outcome = w.outcome(task)
        assert outcome is not None
        assert outcome.error is not None
        assert outcome.error.code == "worker_failed"
        assert not re.search("secret|ValueError", outcome.model_dump_json())
