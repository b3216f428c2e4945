"""A task whose images start from files: its owner fetches them from the store and sends them to the runner."""

import json

import pytest

from adapters.clock import settle
from tasks.events import Outcome
from tasks.object_keys import input_folder
from tasks.task import Task
from tests.support.world import World, world

IMAGE = {"name": "image", "key": "inputs/ada/0f3a", "content_type": "image/png"}


async def submitted(w: World, *inputs: dict[str, str], **more: object) -> Task:
    """Ada's task with these inputs on its lane, as a gateway that takes inputs writes it."""
    task = await w.submit(user_id="ada")
    record = json.loads(task.model_dump_json()) | {"task_id": "f" * 32, "inputs": inputs, "requires": ["inputs"]}
    await w.raw(json.dumps(record | more).encode())
    await settle()
    return task.model_copy(update={"task_id": "f" * 32})


async def ended(w: World, task: Task) -> Outcome:
    await w.clock.advance(10)
    outcome = w.outcome(task)
    assert outcome is not None
    return outcome


async def test_the_owner_sends_the_inputs_to_the_runner():
    async with world() as w:
        w.add_runner(inputs=("image",))
        await w.store.put_image(IMAGE["key"], b"a drawing", "image/png")
        await w.start()
        task = await submitted(w, IMAGE)
        assert (await ended(w, task)).status == "completed"
        assert [request.inputs for request in w.runner.ran if request.task_id == task.task_id] == [("image",)]
        drawn = w.store.objects[(await ended(w, task)).images[0].key]
        await w.store.put_image(IMAGE["key"], b"another drawing", "image/png")
        again = await submitted(w, IMAGE, task_id="e" * 32)
        other = await ended(w, again.model_copy(update={"task_id": "e" * 32}))
        assert w.store.objects[other.images[0].key] != drawn


async def test_an_input_that_is_gone_ends_the_task_with_its_own_code():
    async with world() as w:
        w.add_runner(inputs=("image",))
        await w.start()
        outcome = await ended(w, await submitted(w, IMAGE))
        assert outcome.error is not None
        assert outcome.error.code == "input_missing"
        assert w.watermark_at_end()


async def test_a_store_that_is_unavailable_delays_a_task_with_inputs():
    async with world() as w:
        w.add_runner(inputs=("image",))
        await w.store.put_image(IMAGE["key"], b"a drawing", "image/png")
        await w.start()
        w.store.down = True
        task = await submitted(w, IMAGE)
        await w.clock.advance(5)
        assert w.outcome(task) is None
        w.store.down = False
        assert (await ended(w, task)).status == "completed"


async def test_a_model_that_takes_no_inputs_never_draws_without_them():
    async with world() as w:
        await w.start()
        outcome = await ended(w, await submitted(w, IMAGE))
        assert outcome.error is not None
        assert outcome.error.code == "invalid_request"
        assert [request for request in w.runner.ran if request.task_id == "f" * 32] == []


async def test_a_key_outside_the_inputs_is_no_input():
    async with world() as w:
        w.add_runner(inputs=("image",))
        await w.start()
        for key in ("system/id_secret", "inputs/../system/id_secret", "tasks/a/outcome.json", "inputs/", "inputs//a"):
            await submitted(w, IMAGE | {"key": key})
        await w.clock.advance(10)
        assert [request for request in w.runner.ran if request.inputs] == []
        assert len(w.broker.topics["dead_letter"][0]) == 5


@pytest.mark.parametrize(
    ("user_id", "key"),
    [
        ("eve", IMAGE["key"]),
        ("ad", IMAGE["key"]),
        ("ada/", IMAGE["key"]),
        ("ada/0f3a", IMAGE["key"]),
        ("inputs/ada", IMAGE["key"]),
        ("Ada", IMAGE["key"]),
        ("..", "inputs/ada/0f3a"),
        (".", "inputs/ada/0f3a"),
        ("", "inputs/ada/0f3a"),
        ("eve", "inputs/ada-eve/0f3a"),
        ("ada", "inputs/ada"),
        ("ada", "inputs/adam/0f3a"),
    ],
)
async def test_an_input_of_another_user_never_reaches_a_runner(user_id: str, key: str):
    async with world() as w:
        w.add_runner(inputs=("image",))
        await w.store.put_image(key, b"a drawing", "image/png")
        await w.start()
        task = await submitted(w, IMAGE | {"key": key}, user_id=user_id)
        await w.clock.advance(10)
        assert [request for request in w.runner.ran if request.inputs] == []
        if user_id:
            assert (ended := w.outcome(task)) is not None
            assert ended.error is not None
            assert (ended.error.code, ended.images) == ("invalid_request", ())
        assert w.watermark_at_end()


@pytest.mark.parametrize("user_id", ["ada@example.org", "..", "a/b", "Zoë", "x" * 200, "_x"])
async def test_every_user_has_a_folder_of_inputs_of_its_own(user_id: str):
    async with world() as w:
        w.add_runner(inputs=("image",))
        key = f"{input_folder(user_id)}0f3a"
        await w.store.put_image(key, b"a drawing", "image/png")
        await w.start()
        task = await submitted(w, IMAGE | {"key": key}, user_id=user_id)
        assert (await ended(w, task)).status == "completed"
        again = await submitted(w, IMAGE | {"key": key}, user_id="eve", task_id="e" * 32)
        other = await ended(w, again.model_copy(update={"task_id": "e" * 32}))
        assert other.error is not None
