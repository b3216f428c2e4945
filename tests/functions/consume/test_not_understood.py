"""A task that requires a field which only a newer version understands: an old consumer leaves it to a newer one for a
bounded time. On twins, with a clock the tests turn."""

import asyncio
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from adapters.clock import settle
from functions.consume.triggers import aws_lambda, knative
from tasks import reading
from tasks.events import Outcome
from tasks.lease import LEASE_SECONDS
from tests.functions.consume.test_triggers import answered, on_lane, push_consumer
from tests.support.platform_events import cloud_event, kafka_event
from tests.support.world import Running, World, world

NEW_FIELD = "depth_map"
WAIT = 600.0
"""The default of NOT_UNDERSTOOD_WAIT."""


@contextmanager
def newer_version(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """What reads a record meanwhile understands the new field."""
    with patch.context() as newer:
        newer.setattr(reading, "UNDERSTOOD_FIELDS", frozenset({NEW_FIELD}))
        yield


async def submit_new(w: World, **more: Any) -> str:
    """Append a task that requires the new field; its id."""
    task_id = uuid.uuid4().hex
    body = {"task_id": task_id, "model_name": "sd-mini", "prompt": "a red circle", "requires": [NEW_FIELD]}
    await w.raw(json.dumps(body | {NEW_FIELD: "abc"} | more).encode())
    return task_id


def outcome(w: World, task_id: str) -> Outcome | None:
    """The stored outcome."""
    data = w.store.objects.get(f"tasks/{task_id}/outcome.json")
    return None if data is None else Outcome.model_validate_json(data)


def code(w: World, task_id: str) -> str | None:
    """The code with which the task failed, was canceled or expired; None: it has no outcome."""
    ended = outcome(w, task_id)
    return ended.error.code if ended is not None and ended.error is not None else None


def queued_at(running: Running, task_id: str) -> bool:
    """Whether the consumer's view shows the task as queued."""
    seen = running.consumer.view.get(task_id)
    return seen is not None and seen.state.status == "queued"


async def test_an_old_consumer_leaves_the_task_and_a_new_one_does_it(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        old = await w.start()
        task_id = await submit_new(w)
        await w.clock.advance(WAIT / 2)
        assert outcome(w, task_id) is None
        assert not w.runner.ran
        assert queued_at(old, task_id)
        assert not w.watermark_at_end()
        await old.stop()
        with newer_version(monkeypatch):
            await w.start()
            await w.clock.advance(5)
        assert outcome(w, task_id).status == "completed"
        assert w.watermark_at_end()


async def test_a_task_left_for_the_whole_time_fails_and_names_the_field():
    async with world() as w:
        await w.start()
        task_id = await submit_new(w)
        await w.clock.advance(WAIT - 1)
        assert outcome(w, task_id) is None
        await w.clock.advance(2)
        ended = outcome(w, task_id)
        assert (ended.status, ended.error.code, ended.tries) == ("failed", "not_understood", 0)
        assert NEW_FIELD in ended.error.message
        assert w.watermark_at_end()


async def test_the_time_counts_on_through_a_restart():
    async with world() as w:
        first = await w.start()
        task_id = await submit_new(w)
        await w.clock.advance(WAIT - 100)
        await first.kill()
        await w.start()
        await w.clock.advance(90)
        assert outcome(w, task_id) is None
        await w.clock.advance(11)
        assert code(w, task_id) == "not_understood"


async def test_a_creation_time_in_the_future_does_not_hold_the_task_for_ever():
    async with world() as w:
        await w.start()
        task_id = await submit_new(w, created_at=253_402_300_799)
        await w.clock.advance(WAIT + 1)
        assert code(w, task_id) == "not_understood"


async def test_a_cancel_meanwhile_ends_the_task():
    async with world() as w:
        await w.start()
        task_id = await submit_new(w)
        await w.clock.advance(10)
        task = w.consumers[0].consumer.view.get(task_id).task
        await w.cancel(task)
        assert outcome(w, task_id).status == "canceled"
        assert w.watermark_at_end()


async def test_a_task_that_must_start_soon_expires_as_usual():
    async with world() as w:
        await w.start()
        task_id = await submit_new(w, start_within=5)
        await w.clock.advance(6)
        assert (outcome(w, task_id).status, code(w, task_id)) == ("expired", "started_too_late")


async def test_tasks_behind_it_in_the_partition_go_on():
    async with world() as w:
        await w.start()
        left = await submit_new(w)
        behind = [await w.submit() for _ in range(3)]
        await w.clock.advance(10)
        assert [w.status(task) for task in behind] == ["completed"] * 3
        assert outcome(w, left) is None
        assert not w.watermark_at_end()


async def test_an_attempt_that_a_newer_owner_runs_is_not_failed_while_it_lives(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        with newer_version(monkeypatch):
            newer = await w.start()
            task_id = await submit_new(w, created_at=w.clock.now() - 2 * WAIT, image_params={"steps": 100})
            await w.clock.advance(1)
        await w.start()
        (has, gets) = (newer.log.members[0], w.consumers[1].log.members[0])
        everything = has.assigned | gets.assigned
        has.reassign(frozenset())
        gets.reassign(everything)
        w.broker.wake()
        await w.clock.advance(20)
        assert outcome(w, task_id).status == "completed"
        assert len(w.runner.ran) == 1


async def test_a_newer_owner_that_died_with_the_task_leaves_it_to_fail_in_time(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        with newer_version(monkeypatch):
            newer = await w.start()
            task_id = await submit_new(w, image_params={"steps": 100})
            await w.clock.advance(1)
            await newer.kill()
        await w.start()
        await w.clock.advance(LEASE_SECONDS + 2)
        assert outcome(w, task_id) is None
        await w.clock.advance(WAIT)
        assert code(w, task_id) == "not_understood"


async def test_one_log_line_says_that_the_task_is_left(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    async with world() as w:
        await w.start()
        task_id = await submit_new(w)
        await w.clock.advance(WAIT / 2)
        lines = [record for record in caplog.records if record.message == "left to a newer version"]
        assert [record.__dict__["task_id"] for record in lines] == [task_id]
        assert NEW_FIELD in lines[0].__dict__["reason"]


async def test_lambda_hands_the_record_back_until_the_time_is_over():
    async with world() as w:
        push = await push_consumer(w)
        task_id = await submit_new(w)
        neighbour = await w.submit()
        event = kafka_event(*on_lane(w))
        (failure,) = (await answered(w, push, event))["batchItemFailures"]
        assert failure["itemIdentifier"]["offset"] == on_lane(w)[0].place.offset
        assert w.status(neighbour) == "completed"
        assert outcome(w, task_id) is None
        await w.clock.advance(WAIT)
        assert await answered(w, push, event) == {"batchItemFailures": []}
        assert code(w, task_id) == "not_understood"


async def test_lambda_of_a_newer_version_does_the_task(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        push = await push_consumer(w)
        task_id = await submit_new(w)
        event = kafka_event(*on_lane(w))
        assert await aws_lambda.answer(push, event, 60) != {"batchItemFailures": []}
        with newer_version(monkeypatch):
            assert await answered(w, push, event) == {"batchItemFailures": []}
        assert outcome(w, task_id).status == "completed"


async def test_a_pushed_task_that_must_start_soon_expires_as_usual():
    async with world() as w:
        push = await push_consumer(w)
        task_id = await submit_new(w, start_within=5)
        await w.clock.advance(6)
        assert await answered(w, push, kafka_event(*on_lane(w))) == {"batchItemFailures": []}
        assert code(w, task_id) == "started_too_late"


async def test_knative_is_asked_to_deliver_again_until_the_time_is_over():
    async with world() as w:
        push = await push_consumer(w)
        task_id = await submit_new(w)
        (record,) = on_lane(w)
        # The time of the event is the record's append time.
        headers = cloud_event(record) | {"ce-time": _iso(record.timestamp)}
        async with TestClient(TestServer(knative.application(push, 295))) as client:
            answer = await client.post("/", data=record.value, headers=headers)
            assert (answer.status, (await answer.json())["code"]) == (503, "not_understood")
            assert int(answer.headers["Retry-After"]) > 0
            assert outcome(w, task_id) is None
            await w.clock.advance(WAIT)
            sent = asyncio.ensure_future(client.post("/", data=record.value, headers=headers))
            await settle()
            assert (await sent).status == 204
        assert code(w, task_id) == "not_understood"


def _iso(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()
