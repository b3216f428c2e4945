"""Push triggers: requests as AWS Lambda and Knative's KafkaSource send them. On twins."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from adapters.clock import settle
from adapters.memory_log import EVENTS, MemoryLog
from functions.consume.consumer import build_consumer
from functions.consume.triggers import aws_lambda as lambda_
from functions.consume.triggers import knative
from functions.consume.triggers.push import PushConsumer
from tasks.errors import InvalidRequest, OutOfMemory, UnknownLane
from tasks.log import Record
from tasks.task import Task
from tests.support.platform_events import cloud_event, kafka_event
from tests.support.world import LANES, World, card, world

LONG = {"steps": 100}


async def push_consumer(w: World) -> PushConsumer:
    """A push consumer on the world's twins, prepared."""
    log = MemoryLog(w.broker)

    async def addresses() -> list[str]:
        return list(w.runners)

    consumer = build_consumer(
        w.settings, task_log=log, store=w.store, clock=w.clock, addresses=addresses, connect=lambda url: w.runners[url]
    )
    push = PushConsumer(consumer, LANES, log, w.clock, w.settings.not_understood_wait)
    await push.prepare()
    return push


def on_lane(w: World, lane: str = LANES[0]) -> list[Record]:
    """All records of the lane."""
    return [record for records in w.broker.topics[lane].values() for record in records]


async def submit(w: World, **body: object) -> tuple[Task, Record]:
    """A task and its record."""
    task = await w.submit(**body)
    return task, next(record for record in on_lane(w) if task.task_id.encode() in record.value)


async def answered(w: World, push: PushConsumer, event: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    """What the function answers to the event, its time turned by hand."""
    answer = asyncio.ensure_future(lambda_.answer(push, event, seconds))
    await settle()
    while not answer.done():
        await w.clock.advance(0.5)
    return await answer


@pytest.mark.parametrize("source", ["aws:kafka", "SelfManagedKafka"])
async def test_a_lambda_batch_ends_every_task_and_fails_none(source: str) -> None:
    async with world() as w:
        push = await push_consumer(w)
        pairs = [await submit(w) for _ in range(5)]
        event = kafka_event(*(record for _, record in pairs), source=source)
        assert await answered(w, push, event) == {"batchItemFailures": []}
        assert [w.status(task) for task, _ in pairs] == ["completed"] * 5
        assert [w.started(task) for task, _ in pairs] == [[1]] * 5


async def test_a_lambda_batch_out_of_time_is_redelivered_from_its_first_unfinished_record() -> None:
    async with world() as w:
        push = await push_consumer(w)
        pairs = [await submit(w, image_params=steps) for steps in ({"steps": 5}, LONG, LONG)]
        event = kafka_event(*(record for _, record in pairs))
        answer = await answered(w, push, event, seconds=3)
        place = pairs[1][1].place
        assert answer == {
            "batchItemFailures": [
                {"itemIdentifier": {"partition": f"{place.topic}-{place.partition}", "offset": place.offset}}
            ]
        }
        assert [w.status(task) for task, _ in pairs] == ["completed", None, None]
        assert w.runner.running == {}
        assert await answered(w, push, event) == {"batchItemFailures": []}
        assert [w.status(task) for task, _ in pairs] == ["completed"] * 3


async def test_an_unreadable_record_does_not_hold_a_lambda_batch_up() -> None:
    async with world() as w:
        push = await push_consumer(w)
        await w.raw(b"nonsense")
        task, record = await submit(w)
        assert await answered(w, push, kafka_event(on_lane(w)[0], record)) == {"batchItemFailures": []}
        assert w.status(task) == "completed"
        (letter,) = w.broker.topics["dead_letter"][0]
        assert letter.value == b"nonsense"
        assert letter.headers["mark"] == "é".encode()


async def test_a_mapping_that_reads_a_topic_which_is_not_a_lane_raises() -> None:
    async with world() as w:
        push = await push_consumer(w)
        _, record = await submit(w)
        event = kafka_event(record)
        next(iter(event["records"].values()))[0]["topic"] = EVENTS
        with pytest.raises(UnknownLane):
            await lambda_.answer(push, event, 60)


async def test_a_task_redelivered_after_its_outcome_is_only_announced() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w)
        await answered(w, push, kafka_event(record))
        await answered(w, await push_consumer(w), kafka_event(record))
        assert (w.status(task), len(w.runner.ran)) == ("completed", 1)


async def test_a_task_that_lies_twice_in_one_batch_runs_once() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, _ = await submit(w)
        await w.client.append_task(task)
        assert await answered(w, push, kafka_event(*on_lane(w))) == {"batchItemFailures": []}
        assert (w.status(task), len(w.runner.ran)) == ("completed", 1)


async def test_a_pushed_task_is_retried_when_that_can_help() -> None:
    async with world() as w:
        push = await push_consumer(w)
        w.runner.fail_next = [OutOfMemory()]
        task, record = await submit(w)
        await answered(w, push, kafka_event(record))
        assert (w.status(task), w.started(task)) == ("completed", [1, 2])


async def test_a_pushed_task_that_cannot_be_done_fails_with_the_code_of_a_refused_submit() -> None:
    async with world() as w:
        push = await push_consumer(w)
        body = {"task_id": "0" * 32, "model_name": "sd-mini", "prompt": "x", "loras": ["nope"]}
        await w.raw(json.dumps(body).encode())
        await answered(w, push, kafka_event(*on_lane(w)))
        assert json.loads(w.store.objects[f"tasks/{'0' * 32}/outcome.json"])["error"]["code"] == "unknown_lora"


async def test_a_pushed_task_that_finds_no_room_in_time_expires() -> None:
    async with world() as w:
        push = await push_consumer(w)
        pairs = [await submit(w, image_params=LONG) for _ in range(2)]
        late, record = await submit(w, start_within=5)
        await answered(w, push, kafka_event(*(one for _, one in pairs), record))
        assert w.outcome(late).error.code == "started_too_late"  # type: ignore[union-attr]
        assert w.started(late) == []


async def test_a_pushed_task_waits_for_its_models_runner_and_does_not_fail() -> None:
    async with world() as w:
        await w.client.append_card(card())
        task, record = await submit(w)
        w.runner.away = True
        push = await push_consumer(w)
        answer = asyncio.ensure_future(lambda_.answer(push, kafka_event(record), 60))
        await w.clock.advance(10)
        assert w.outcome(task) is None
        w.runner.away = False
        await push.look()
        await settle()
        await w.clock.advance(5)
        assert answer.result() == {"batchItemFailures": []}
        assert w.status(task) == "completed"


async def test_knative_gets_success_only_once_the_task_has_its_outcome() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w)
        async with TestClient(TestServer(knative.application(push, 295))) as client:
            sent = asyncio.ensure_future(client.post("/", data=record.value, headers=cloud_event(record)))
            async with asyncio.timeout(10):
                while not w.runner.running:
                    await asyncio.sleep(0.001)
                assert not sent.done()
                await w.clock.advance(5)
                assert (await sent).status == 204
            assert w.status(task) == "completed"
            metrics = await (await client.get("/metrics")).text()
            assert 'ai_image_gen_tasks_total{code="",lane="ai_image_gen.online_task",model="sd-mini"' in metrics


def test_a_cloud_event_holds_the_record_as_it_lay_on_the_lane() -> None:
    headers = {
        "ce-type": "dev.knative.kafka.event",
        "ce-source": f"/apis/v1/namespaces/images/kafkasources/tasks#{LANES[1]}",
        "ce-id": "partition:3/offset:42",
        "ce-time": "2026-11-24T10:15:30Z",
        "ce-key": "sd-mini",
        "ce-kafkaheadertraceparent": "00-ab",
    }
    record = knative.record_of(headers, b"{}", LANES)
    assert (record.place.topic, record.place.partition, record.place.offset) == (LANES[1], 3, 42)
    assert (record.key, record.value, record.headers) == ("sd-mini", b"{}", {"traceparent": b"00-ab"})
    assert record.timestamp == 1795515330.0


@pytest.mark.parametrize("change", [{"ce-type": "other"}, {"ce-id": "7"}, {"ce-source": "/no/topic"}, {"ce-time": "x"}])
async def test_another_kind_of_request_is_refused_and_runs_nothing(change: dict[str, str]) -> None:
    async with world() as w:
        push = await push_consumer(w)
        _, record = await submit(w)
        with pytest.raises(InvalidRequest):
            knative.record_of(cloud_event(record) | change, record.value, LANES)
        async with TestClient(TestServer(knative.application(push, 295))) as client:
            answer = await client.post("/", data=record.value, headers=cloud_event(record) | change)
            assert (answer.status, (await answer.json())["code"]) == (422, "invalid_request")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert w.runner.ran == []
