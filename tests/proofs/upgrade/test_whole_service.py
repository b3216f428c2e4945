"""Records of older and newer versions in a whole service on twins."""

import json
import struct
import uuid
from typing import Any

import pytest

from adapters.clock import settle
from adapters.memory_log import EVENTS, MODELS
from tasks.events import Outcome
from tasks.runner_api import Decoder
from tasks.task import Task
from tests.proofs.upgrade.reading import FROM_THE_FUTURE, VERSIONS, read, sample, samples, with_more
from tests.support.gateway_world import BODY
from tests.support.gateway_world import world as gateways
from tests.support.world import LANES, World, world

TASKS = list(samples("task"))


async def on_lane(w: World, record: dict[str, Any], lane: str = LANES[0]) -> Task:
    """Append the record to the lane with a new task id."""
    record = record | {"task_id": uuid.uuid4().hex}
    await w.raw(json.dumps(record).encode(), lane)
    return Task.model_construct(task_id=record["task_id"])


async def write_event(w: World, value: dict[str, Any] | bytes, partition: int | None = None) -> None:
    """Append an event as another version writes it."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    w.broker.append(EVENTS, w.broker.partition_of("sd-mini") if partition is None else partition, "k", data, {})
    await settle()


@pytest.mark.parametrize(("version", "name"), TASKS)
@pytest.mark.parametrize("more", [lambda record: record, with_more], ids=["as it is", "with more"])
async def test_a_task_of_another_version_is_done(version: str, name: str, more: Any):
    async with world() as w:
        await w.start()
        task = await on_lane(w, more(sample(version, name)))
        await w.clock.advance(5)
        assert w.status(task) == "completed"
        assert w.watermark_at_end()


@pytest.mark.parametrize(
    "record",
    [
        {"topic": "a_lane_from_the_future"},
        {"loras": [{"name": "night", "weight": 0.5, "from_step": 3}]},
        {"image_params": {"steps": 4, "tiling": True}},
    ],
)
async def test_a_task_that_asks_for_more_than_this_version_knows_is_done_without_it(record: dict[str, Any]):
    async with world() as w:
        await w.start()
        task = await on_lane(w, sample(VERSIONS[0], "task_by_hand") | record)
        await w.clock.advance(5)
        assert w.status(task) == "completed"
        assert FROM_THE_FUTURE not in w.store.objects[f"tasks/{task.task_id}/outcome.json"].decode()


@pytest.mark.parametrize("params", [{"format": "avif"}, {"width": "large"}])
async def test_a_task_this_version_cannot_understand_is_kept_whole_and_the_queue_goes_on(
    params: dict[str, Any],
):
    async with world() as w:
        await w.start()
        await on_lane(w, sample(VERSIONS[0], "task_by_hand") | {"image_params": params})
        task = await w.submit()
        await w.clock.advance(5)
        assert w.status(task) == "completed"
        assert w.watermark_at_end()
        (letter,) = w.broker.topics["dead_letter"][0]
        assert json.loads(letter.value)["image_params"] == params


async def test_events_of_unknown_kinds_and_forms_stop_nothing():
    async with world() as w:
        await w.start()
        task = await w.submit(image_params={"steps": 30})
        for event in (
            {"kind": "paused", "task_id": task.task_id, "at": 1.0},
            {"kind": "paused", "until": "noon"},
            {"kind": "progress", "task_id": task.task_id, "at": 1.0, "attempt": "first", "owner": "x"},
            b"\x00\x01 not JSON",
        ):
            await write_event(w, event)
        await w.clock.advance(5)
        assert Outcome.model_validate_json(w.store.objects[f"tasks/{task.task_id}/outcome.json"]).status == "completed"
        assert w.watermark_at_end()
        assert len(w.broker.topics["dead_letter"][0]) == 2


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_events_of_an_older_owner_renew_its_lease_and_its_release_requeues(version: str):
    async with world() as w:
        record = sample(version, "task_by_hand")
        task = await on_lane(w, record)
        task_id = {"task_id": task.task_id}
        await write_event(w, sample(version, "started") | task_id)
        await write_event(w, sample(version, "progress") | task_id)
        await w.start()
        assert w.runner.ran == []
        owner = sample(version, "started")["owner"]
        await write_event(w, sample(version, "released_by_a_consumer_that_ends") | task_id | {"owner": owner})
        await w.clock.advance(5)
        assert w.status(task) == "completed"
        assert w.outcome(task).tries == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_task_that_ended_with_an_unknown_status_has_ended(version: str):
    async with world() as w:
        task = await on_lane(w, sample(version, "task_by_hand"))
        value = sample(version, "outcome_completed")
        stored = json.loads(json.dumps(value).replace(value["task_id"], task.task_id)) | {"status": "completed_in_part"}
        await write_event(w, sample(version, "started") | {"task_id": task.task_id})
        w.store.objects[f"tasks/{task.task_id}/outcome.json"] = json.dumps(stored | {FROM_THE_FUTURE: 1}).encode()
        await w.start()
        await w.clock.advance(30)
        assert w.runner.ran == []
        outcomes = [event for event in w.events(task) if isinstance(event, Outcome)]
        assert [(outcome.status, outcome.model_extra) for outcome in outcomes] == [
            ("completed_in_part", {FROM_THE_FUTURE: 1})
        ]
        assert w.watermark_at_end()


async def test_an_outcome_this_version_cannot_read_is_left_alone_and_the_queue_goes_on():
    async with world() as w:
        task = await on_lane(w, sample(VERSIONS[0], "task_by_hand"))
        await write_event(w, sample(VERSIONS[0], "started") | {"task_id": task.task_id})
        future = b'{"schema": 9, "how": "completed"}'
        w.store.objects[f"tasks/{task.task_id}/outcome.json"] = future
        running = await w.start()
        other = await w.submit()
        await w.clock.advance(60)
        assert w.status(other) == "completed"
        assert not any(request.task_id == task.task_id for request in w.runner.ran)
        assert w.store.objects[f"tasks/{task.task_id}/outcome.json"] == future
        assert not running.work.done()


async def test_an_unknown_acceleration_of_a_newer_runner_is_kept_in_the_outcome(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        run = w.runner.run

        async def newer(request: Any, inputs: Any = ()) -> Any:
            decoder = Decoder()
            async for frame in run(request, inputs):
                fields = {"kind": frame.kind, **frame.model_dump()} | {FROM_THE_FUTURE: 1}
                if frame.kind == "end":
                    fields["acceleration"] = {"cache": {"kind": "new"}}
                for header, payload in (({"kind": "a_kind_from_the_future"}, b"?"), (fields, frame.payload)):
                    head = json.dumps(header).encode()
                    for read_frame in decoder.feed(struct.pack(">II", len(head), len(payload)) + head + payload):
                        yield read_frame

        monkeypatch.setattr(w.runner, "run", newer)
        await w.start()
        task = await w.submit()
        await w.clock.advance(5)
        assert w.status(task) == "completed"
        assert w.outcome(task).acceleration == {"cache": {"kind": "new"}}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_card_of_another_version_is_good_enough_to_ask_by(version: str):
    async with world() as w:
        value = with_more(sample(version, "card")) | {"model": "older", "family": "a_family_from_the_future"}
        w.broker.append(MODELS, 0, "older", json.dumps(value).encode(), {})
        w.broker.append(MODELS, 0, "broken", b'{"model": "broken", "schema": 9}', {})
        w.add_runner("memory://2", capabilities=read("card", value))
        await w.start()
        task = await w.submit(model_name="older")
        await w.clock.advance(5)
        assert w.status(task) == "completed"


@pytest.mark.parametrize(("version", "name"), samples("outcome"))
@pytest.mark.parametrize("more", [lambda value: value, with_more], ids=["as it is", "with more"])
async def test_a_gateway_answers_how_a_task_of_another_version_ended(version: str, name: str, more: Any):
    async with gateways() as w:
        client, _ = await w.gateway()
        value = more(sample(version, name))
        w.store.objects[f"tasks/{value['task_id']}/outcome.json"] = json.dumps(value).encode()
        answer = await client.get(f"/check_status/{value['task_id']}")
        assert (answer.status_code, answer.json()["status"]) == (200, value["status"])
        w.broker.append(EVENTS, 0, value["task_id"], json.dumps(value).encode(), {})
        await settle()
        again = await client.get(f"/check_status/{value['task_id']}")
        assert {**again.json(), "updated_at": ""} == {**answer.json(), "updated_at": ""}


async def test_a_gateway_answers_an_unknown_status_and_continues():
    async with gateways() as w:
        client, _gateway = await w.gateway()
        value = sample(VERSIONS[0], "outcome_failed")
        value |= {"status": "refused", "error": {"code": "a_code_from_the_future", "message": "It is new."}}
        w.store.objects[f"tasks/{value['task_id']}/outcome.json"] = json.dumps(value).encode()
        w.broker.append(EVENTS, 0, value["task_id"], json.dumps(value).encode(), {})
        await settle()
        answer = (await client.get(f"/check_status/{value['task_id']}")).json()
        assert (answer["status"], answer["error"]["code"]) == ("refused", "a_code_from_the_future")
        assert (await client.get(f"/get_image/{value['task_id']}")).status_code == 410
        assert (await client.post(f"/cancel_task/{value['task_id']}")).status_code == 409
        w.store.objects[f"tasks/{'e' * 32}/outcome.json"] = b'{"schema": 9}'
        assert (await client.get(f"/check_status/{'e' * 32}")).status_code == 503
        assert (await client.get("/models")).status_code == 200


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("body", [{}, {"topic": "ai_image_gen.online_task"}])
async def test_a_retry_finds_the_task_that_a_gateway_of_the_first_version_accepted(ended: bool, body: dict[str, Any]):
    async with gateways() as w:
        client, _ = await w.gateway()
        headers = {"Idempotency-Key": "k"}
        sent = {**BODY, **({"topic": "online_task"} if body else {})}
        task_id = (await client.post("/generate_image", json=sent, headers=headers)).json()["task_id"]
        (task,) = w.tasks()
        older = task.model_copy(update={"request_sha256": None})
        if ended:
            await w.end(older, announced=False)
        for lane in LANES:
            w.broker.topics[lane].clear()
        if not ended:
            await w.log.append_task(older)
        later, _ = await w.gateway()
        again = await later.post("/generate_image", json={**BODY, **body}, headers=headers)
        assert (again.status_code, again.json()["task_id"]) == (200 if ended else 202, task_id)
        other = await later.post("/generate_image", json={**BODY, **body, "prompt": "another"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
