"""The life of a task as a user sees it: real broker, real store, real models."""

import io
import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from confluent_kafka import Consumer, Producer
from PIL import Image

from tests.support.stack import Api, Process, Stack, until

LONG = {"steps": 150, "num_images": 4}
"""The miniatures draw one size, so more images make a long task."""


@pytest.mark.parametrize(("model", "name"), [("sd-mini", "sd-mini"), ("flux-mini", "flux-1-dev")])
def test_a_prompt_becomes_a_picture_that_carries_its_parameters(api: Api, model: str, name: str):
    answer = api.post(
        {
            "model_name": name,
            "prompt": "a red circle on a blue background",
            "negative_prompt": "a green background",
            "image_params": {"width": 64, "height": 64, "steps": 6, "seed": 7},
            "loras": [{"name": "night", "weight": 0.5}],
            "user_id": "ada",
            "topic": "online_task",
        }
    )
    assert answer.status_code == 202, answer.text
    accepted = answer.json()
    assert answer.headers["location"].endswith(f"/check_status/{accepted['task_id']}")
    status = api.reached(accepted["task_id"], "completed", "failed")
    assert status["status"] == "completed", status
    assert status["seed"] == 7
    assert status["progress"] == {"step": 6, "steps": 6}
    assert status["model_name"] == model
    assert status["alias"] == (None if name == model else name)
    assert all(status["timings"][stage] is not None for stage in ("queued", "loading", "generating", "storing"))
    image = api.image(accepted["task_id"])
    assert image.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(image.content))
    assert picture.size == (64, 64)
    parameters = picture.info["parameters"]
    assert "a red circle on a blue background" in parameters
    assert "Negative prompt: a green background" in parameters
    assert "Seed: 7" in parameters
    assert accepted["task_id"] in json.dumps({key: str(value) for key, value in picture.info.items()})
    if name != model:
        assert name in json.dumps({key: str(value) for key, value in picture.info.items()})


def test_a_request_that_waits_gets_the_bytes_of_the_image(api: Api):
    answer = api.post(
        {"model_name": "sd-mini", "prompt": "a star", "image_params": {"steps": 4, "format": "webp"}},
        Prefer="wait=30",
        Accept="image/*",
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).format == "WEBP"


def test_the_same_idempotency_key_is_the_same_task_and_another_body_is_refused(api: Api):
    body = {"model_name": "sd-mini", "prompt": "a ring", "image_params": {"steps": 2}}
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.post(body, **{"Idempotency-Key": key}), range(4)))
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    refused = api.post(body | {"prompt": "a cross"}, **{"Idempotency-Key": key})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_several_pictures_of_one_task_have_seeds_of_their_own(api: Api):
    task = api.submit(image_params={"steps": 2, "num_images": 2, "seed": 5})
    status = api.reached(task, "completed")
    assert [image["seed"] for image in status["images"]] == [5, 6]
    assert api.image(task, index=0).content != api.image(task, index=1).content
    assert api.image(task, index=2).status_code == 404


def test_a_running_task_shows_its_steps_and_a_cancel_ends_it_at_the_next(api: Api):
    task = api.submit(image_params=LONG)
    status = api.stepping(task)
    assert status["progress"]["steps"] == LONG["steps"]
    assert api.cancel(task).status_code == 202
    status = api.reached(task, "canceled", "completed", seconds=10)
    assert status["status"] == "canceled"
    assert api.image(task).status_code == 410


def test_a_queued_task_has_a_position_and_a_cancel_ends_it_at_once(api: Api):
    running = [api.submit(image_params=LONG, user_id="many") for _ in range(3)]
    queued = [api.submit(image_params=LONG, user_id="many") for _ in range(3)]
    until(lambda: api.status(queued[-1])["position"] is not None, what="a position")
    last = api.status(queued[-1])
    assert last["status"] == "queued"
    assert last["estimated_seconds"] > 0
    assert api.image(queued[-1]).status_code == 409
    for task in reversed(queued):
        api.cancel(task)
    assert api.reached(queued[-1], "canceled", seconds=5)["status"] == "canceled"
    for task in running:
        api.cancel(task)
    for task in running + queued:
        api.reached(task, "canceled", "completed", seconds=30)


def test_a_task_written_to_the_lane_is_done_and_nonsense_is_a_dead_letter(api: Api, stack: Stack):
    task_id = uuid.uuid4().hex
    producer = Producer({"bootstrap.servers": stack.bootstrap, "partitioner": "murmur2_random"})
    lane = f"{stack.prefix}.online_task"
    producer.produce(lane, key="sd-mini", value=b'{"task_id": 17, "nonsense": [')
    body = {"task_id": task_id, "model_name": "sd-mini", "prompt": "a square", "image_params": {"steps": 2}}
    producer.produce(lane, key="sd-mini", value=json.dumps(body).encode())
    refused_id = uuid.uuid4().hex
    refused = body | {"task_id": refused_id, "loras": ["nope"]}
    producer.produce(lane, key="sd-mini", value=json.dumps(refused).encode())
    assert producer.flush(10) == 0
    until(lambda: httpx.get(f"{api.url}/check_status/{task_id}").status_code == 200, what="the task known")
    assert api.reached(task_id, "completed", "failed")["status"] == "completed"
    failed = api.reached(refused_id, "completed", "failed")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "unknown_lora")

    reader = Consumer(
        {"bootstrap.servers": stack.bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    )
    reader.subscribe([f"{stack.prefix}.dead_letter"])
    letter = until(lambda: (m := reader.poll(0.5)) and not m.error() and m, what="a dead letter")
    reader.close()
    assert letter.value() == b'{"task_id": 17, "nonsense": ['
    headers = dict(letter.headers())
    assert headers["kafka_dlt-original-topic"].decode() == lane
    assert headers["kafka_dlt-exception-message"]


def test_every_model_is_listed_and_an_alias_names_its_model(api: Api):
    models = {model["model_name"]: model for model in httpx.get(f"{api.url}/models").json()["models"]}
    assert {"sd-mini", "flux-mini", "flux-1-dev", "stable-diffusion-v1-5"} <= models.keys()
    assert models["flux-1-dev"]["alias_of"] == "flux-mini"
    assert "night" in models["sd-mini"]["loras"]


def test_two_gateways_read_each_others_writes(api: Api, stack: Stack, gateway: Process):
    other = Api(stack.gateway().wait_until_ready().url)
    for _ in range(20):
        task = api.submit(image_params={"steps": 1})
        assert other.status(task)["task_id"] == task
    assert httpx.get(f"{other.url}/check_status/{uuid.uuid4().hex}").status_code == 404
