"""The Gateway that every face is built on: submit and wait, and only for the owner."""

import asyncio

import pytest

from adapters.clock import settle
from functions.api.caller import ANYBODY, Caller
from tasks.errors import InvalidRequest, NotAllowedByKey, QueueUnavailable, UnknownTask
from tasks.log import Place
from tasks.task import GenerateRequest, Task
from tests.support.gateway_world import BODY, GatewayWorld, until_waiting, world

REQUEST = GenerateRequest.model_validate(BODY)
ADA, BOB = Caller("ada"), Caller("bob")


def hold_appends(w: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Let every append of a task wait for this event."""
    released = asyncio.Event()
    append = type(w.log).append_task

    async def held(log: object, task: Task) -> Place:
        await released.wait()
        return await append(log, task)  # type: ignore[arg-type]

    monkeypatch.setattr(type(w.log), "append_task", held)
    return released


async def test_generate_returns_the_task_when_it_has_ended():
    async with world() as w:
        _, g = await w.gateway()
        waiting = asyncio.ensure_future(g.gateway.generate(REQUEST, ANYBODY, wait=30))
        await until_waiting(g)
        await w.end(w.tasks()[0])
        snapshot = await waiting
        assert snapshot.state.status == "completed"
        assert await g.gateway.image(snapshot.task.task_id, ANYBODY, 0, g.gateway.read_image)


async def test_canceling_a_wait_leaves_the_task_in_the_queue():
    async with world() as w:
        _, g = await w.gateway()
        waiting = asyncio.ensure_future(g.gateway.generate(REQUEST, ANYBODY, wait=30))
        await until_waiting(g)
        waiting.cancel()
        await settle()
        assert (len(w.tasks()), w.cancels(), g.index.waiting) == (1, 0, 0)


async def test_canceling_before_the_append_is_acknowledged_still_submits(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        _, g = await w.gateway()
        released = hold_appends(w, monkeypatch)
        waiting = asyncio.ensure_future(g.gateway.generate(REQUEST, ANYBODY, wait=30))
        await settle()
        waiting.cancel()
        await settle()
        assert w.tasks() == []
        released.set()
        await settle()
        (task,) = w.tasks()
        assert (await g.gateway.get(task.task_id, ANYBODY)).state.status == "queued"
        assert g.index.queues.load(task.user_id).of_user == 1


async def test_an_error_of_a_submit_reaches_the_caller_that_waits():
    async with world() as w:
        _, g = await w.gateway()
        w.broker.down = True
        with pytest.raises(QueueUnavailable):
            await g.gateway.generate(REQUEST, ANYBODY, wait=30)
        with pytest.raises(InvalidRequest):
            await g.gateway.generate(REQUEST, ANYBODY, wait=30, idempotency_key="")


async def test_a_task_of_another_user_does_not_exist_for_the_caller():
    async with world() as w:
        _, g = await w.gateway()
        task_id = (await g.gateway.generate(REQUEST, ADA)).task.task_id
        assert w.tasks()[0].user_id == "ada"
        for call in (
            g.gateway.get(task_id, BOB),
            g.gateway.wait(task_id, BOB, 30),
            g.gateway.cancel(task_id, BOB),
            g.gateway.image(task_id, BOB, 0, g.gateway.read_image),
            g.gateway.changes(task_id, BOB, 15),
        ):
            with pytest.raises(UnknownTask):
                await call
        assert w.cancels() == 0
        with pytest.raises(NotAllowedByKey):
            await g.gateway.generate(REQUEST.model_copy(update={"user_id": "ada"}), Caller("bob", models=["other"]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01", False),
        ("x", False),
        ("", False),
    ],
)
async def test_a_trace_is_kept_only_as_the_standard_writes_it(given: str, kept: bool):
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY, headers={"traceparent": given})
        assert w.tasks()[0].traceparent == (given if kept else None)
