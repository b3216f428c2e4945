"""Tasks that a platform delivers follow their events: cancels, attempts of other processes, earlier deliveries."""

import asyncio
import base64
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from adapters.clock import settle
from functions.consume.triggers import aws_lambda, knative
from functions.consume.triggers.push import OutOfTime, PushConsumer
from tasks.errors import InvalidRequest, OutOfMemory
from tasks.events import Progress, Released, Started
from tasks.lease import LEASE_SECONDS
from tasks.log import Record
from tasks.retry import MAX_TRIES
from tests.functions.consume.test_triggers import LONG, answered, push_consumer, submit
from tests.support.platform_events import cloud_event, kafka_event
from tests.support.world import LANES, World, world

NONE_LEFT: dict[str, Any] = {"batchItemFailures": []}


def delivered(push: PushConsumer, *records: Record, seconds: float = 60.0) -> "asyncio.Future[dict[str, Any]]":
    """A call of the function that goes on while the test does other things."""
    return asyncio.ensure_future(aws_lambda.answer(push, kafka_event(*records), seconds))


async def ended(w: World, call: "asyncio.Future[dict[str, Any]]") -> dict[str, Any]:
    """The function's answer, the clock advanced until it comes."""
    for _ in range(600):
        if call.done():
            return call.result()
        await w.clock.advance(0.5)
    raise AssertionError("the function does not answer")


async def until_running(w: World) -> None:
    """Let the runner begin."""
    await settle()
    assert w.runner.running
    await w.clock.advance(0.5)


async def test_a_task_canceled_before_its_delivery_does_not_run() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w)
        await w.cancel(task)
        assert await answered(w, push, kafka_event(record)) == NONE_LEFT
        assert (w.status(task), w.runner.ran, w.started(task)) == ("canceled", [], [])


async def test_a_cancel_frees_the_runner_of_a_pushed_task() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w, image_params=LONG)
        call = delivered(push, record)
        await until_running(w)
        await w.cancel(task)
        assert await ended(w, call) == NONE_LEFT
        assert (w.status(task), w.runner.running) == ("canceled", {})


async def test_a_cancel_ends_a_pushed_task_that_waits_for_room() -> None:
    async with world() as w:
        push = await push_consumer(w)
        pairs = [await submit(w, image_params=LONG) for _ in range(3)]
        waiting, record = pairs.pop()
        call, last = delivered(push, *(record for _, record in pairs)), delivered(push, record)
        await until_running(w)
        await w.cancel(waiting)
        await settle()
        assert last.result() == NONE_LEFT
        assert (w.status(waiting), w.started(waiting), call.done()) == ("canceled", [], False)
        call.cancel()


async def test_a_cancel_ends_a_pushed_task_that_waits_for_its_next_try() -> None:
    async with world() as w:
        push = await push_consumer(w)
        w.runner.fail_next = [OutOfMemory()]
        task, record = await submit(w)
        call = delivered(push, record)
        await until_running(w)
        assert any(isinstance(event, Released) and event.delay for event in w.events(task))
        await w.cancel(task)
        assert await ended(w, call) == NONE_LEFT
        assert (w.status(task), w.started(task)) == ("canceled", [1])


async def test_a_warm_process_sees_a_cancel_that_came_between_two_deliveries() -> None:
    async with world() as w:
        push = await push_consumer(w)
        first, record = await submit(w)
        await answered(w, push, kafka_event(record))
        second, record = await submit(w)
        await w.cancel(second)
        assert await answered(w, push, kafka_event(record)) == NONE_LEFT
        assert (w.status(first), w.status(second), len(w.runner.ran)) == ("completed", "canceled", 1)


async def test_a_cancel_older_than_the_first_delivery_of_a_process_is_seen() -> None:
    async with world() as w:
        old, old_record = await submit(w)
        await w.cancel(old)
        await w.clock.advance(600)
        push = await push_consumer(w)
        _, record = await submit(w)
        await answered(w, push, kafka_event(record))
        assert await answered(w, push, kafka_event(old_record)) == NONE_LEFT
        assert (w.status(old), len(w.runner.ran)) == ("canceled", 1)


async def test_a_canceled_knative_task_is_answered_at_once() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w, image_params=LONG)
        async with TestClient(TestServer(knative.application(push, 295))) as client:
            sent = asyncio.ensure_future(client.post("/", data=record.value, headers=cloud_event(record)))
            async with asyncio.timeout(10):
                while not w.runner.running:
                    await asyncio.sleep(0.001)
                await w.cancel(task)
                assert (await sent).status == 204
        assert (w.status(task), w.runner.running) == ("canceled", {})


async def test_a_record_delivered_to_two_processes_at_once_runs_in_one() -> None:
    async with world() as w:
        one, other = await push_consumer(w), await push_consumer(w)
        task, record = await submit(w, image_params=LONG)
        first = delivered(one, record)
        await until_running(w)
        assert await answered(w, other, kafka_event(record)) == NONE_LEFT
        assert await ended(w, first) == NONE_LEFT
        assert (w.status(task), w.started(task), len(w.runner.ran)) == ("completed", [1], 1)


async def test_an_attempt_of_a_process_that_died_is_taken_over_after_its_lease() -> None:
    async with world() as w:
        task, record = await submit(w)
        partition = record.place.partition
        await w.client.append_event(Started(task_id=task.task_id, at=0, attempt=1, owner="dead"), partition)
        call = delivered(await push_consumer(w), record)
        await settle()
        await w.clock.advance(LEASE_SECONDS - 1)
        await w.client.append_event(
            Progress(task_id=task.task_id, at=0, attempt=1, owner="dead", step=1, steps=9), partition
        )
        await w.clock.advance(LEASE_SECONDS - 1)
        assert w.started(task) == [1]
        await w.clock.advance(LEASE_SECONDS)
        assert await ended(w, call) == NONE_LEFT
        assert (w.status(task), w.started(task)) == ("completed", [1, 2])


async def test_a_task_given_back_is_started_at_once_by_the_next_delivery() -> None:
    async with world() as w:
        blockers = [await submit(w, image_params={"steps": 10}) for _ in range(2)]
        task, record = await submit(w, image_params=LONG)
        one = await push_consumer(w)
        await answered(w, one, kafka_event(*(record for _, record in blockers), record), seconds=3)
        assert (w.status(task), w.started(task)) == (None, [1])
        (released,) = [event for event in w.events(task) if isinstance(event, Released)]
        assert (released.counts, released.delay) == (False, 0.0)
        call = delivered(await push_consumer(w), record)
        await settle()
        assert w.started(task) == [1, 2]
        await w.clock.advance(30)
        assert await ended(w, call) == NONE_LEFT
        assert w.outcome(task).tries == 1  # type: ignore[union-attr]


async def test_a_task_that_no_delivery_is_long_enough_for_fails_at_its_last_try() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w, image_params=LONG)
        for _ in range(MAX_TRIES):
            assert w.outcome(task) is None
            assert await answered(w, push, kafka_event(record), seconds=2) != NONE_LEFT
        outcome = w.outcome(task)
        assert outcome is not None
        assert outcome.error is not None
        assert (outcome.error.code, outcome.tries, w.runner.running) == ("ran_too_long", MAX_TRIES, {})
        assert await answered(w, push, kafka_event(record)) == NONE_LEFT


async def test_knative_is_asked_to_deliver_again_what_ran_out_of_time() -> None:
    async with world() as w:
        push = await push_consumer(w)
        w.runner.away = True
        await push.look()
        task, record = await submit(w)
        async with TestClient(TestServer(knative.application(push, 295))) as client:
            sent = asyncio.ensure_future(client.post("/", data=record.value, headers=cloud_event(record)))
            async with asyncio.timeout(10):
                while not push._locks:
                    await asyncio.sleep(0.001)
                await settle()
                await w.clock.advance(295)
                answer = await sent
        assert (answer.status, answer.headers["Retry-After"], w.outcome(task)) == (503, "1", None)


async def test_a_delivery_waits_for_the_events_while_kafka_is_away() -> None:
    async with world() as w:
        push = await push_consumer(w)
        task, record = await submit(w)
        await w.cancel(task)
        w.broker.down = True
        call = delivered(push, record)
        await settle()
        await w.clock.advance(5)
        assert (w.runner.ran, call.done()) == ([], False)
        w.broker.down = False
        w.broker.wake()
        await w.clock.advance(5)
        assert await ended(w, call) == NONE_LEFT
        assert w.status(task) == "canceled"


async def test_failures_name_the_first_unfinished_record_of_each_partition() -> None:
    async with world() as w:
        w.add_runner("memory://2", model="sd-large")
        push = await push_consumer(w)
        w.runner.away = w.runners["memory://2"].away = True
        records = [(await submit(w, model_name=name))[1] for name in ("sd-mini", "sd-large") * 2]
        batch, lane = await answered(w, push, kafka_event(*records), seconds=3), LANES[0]
        assert len({record.place.partition for record in records}) == 2
        assert batch["batchItemFailures"] == [
            {"itemIdentifier": {"partition": f"{lane}-{record.place.partition}", "offset": 0}} for record in records[:2]
        ]


@pytest.mark.parametrize("partial", [True, False])
def test_a_mapping_without_partial_failures_gets_an_error(monkeypatch: pytest.MonkeyPatch, partial: bool) -> None:
    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    async def answer(*_: object) -> dict[str, Any]:
        return {"batchItemFailures": [{"itemIdentifier": {"partition": "lane-0", "offset": 1}}]}

    with asyncio.Runner() as loop:
        environment = aws_lambda._Environment(loop, None, None, partial)  # type: ignore[arg-type]
        monkeypatch.setattr(aws_lambda, "_environment", lambda: environment)
        monkeypatch.setattr(aws_lambda, "answer", answer)
        if partial:
            assert aws_lambda.handler({}, Context())["batchItemFailures"]
        else:
            with pytest.raises(OutOfTime, match="lane-0"):
                aws_lambda.handler({}, Context())


@pytest.mark.parametrize("encoded", [False, True])
def test_an_event_in_structured_mode_holds_the_same_record(encoded: bool) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": f"/apis/v1/namespaces/images/kafkasources/tasks#{LANES[1]}",
        "ce-id": "partition:3/offset:42",
        "ce-time": "2026-11-24T10:15:30Z",
        "ce-key": "sd-mini",
        "ce-kafkaheadertraceparent": "00-ab",
    }
    value = b'{"prompt": "\\u00e9"}'
    event: dict[str, Any] = {name.removeprefix("ce-"): value for name, value in headers.items()}
    event |= {"data_base64": base64.b64encode(value).decode()} if encoded else {"data": json.loads(value)}
    sent = {"content-type": "application/cloudevents+json; charset=utf-8"}
    assert knative.record_of(sent, json.dumps(event).encode(), LANES) == knative.record_of(headers, value, LANES)


@pytest.mark.parametrize("body", [b"", b"[1]", b"7", b'{"data_base64": "%"}', b'{"data_base64": 7}', b'{"id": {}}'])
def test_a_body_that_is_no_structured_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        knative.record_of({"content-type": knative.STRUCTURED}, body, LANES)
