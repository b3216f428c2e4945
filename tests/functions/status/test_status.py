"""Where a task stands, and its cancel."""

import pytest

from tests.support.gateway_world import BODY, PICTURE, is_problem, world

NOBODY = "0" * 32


async def test_the_status_follows_the_task_through_its_life():
    async with world() as w:
        client, _ = await w.gateway()
        url = (await client.post("/generate_image", json=BODY)).json()["status_url"]
        (task,) = w.tasks()
        await w.run(task, step=3)
        document = (await client.get(url)).json()
        assert (document["status"], document["position"], document["progress"]) == (
            "running",
            None,
            {"step": 3, "steps": 10},
        )
        await w.end(task)
        document = (await client.get(url)).json()
        assert (document["status"], document["progress"]["step"]) == ("completed", 10)
        assert document["image_url"] == f"/get_image/{task.task_id}"
        assert document["images"][0]["size"] == len(PICTURE)


async def test_a_task_submitted_at_one_gateway_is_known_at_the_other_at_once():
    async with world() as w:
        (first, _), (second, _) = await w.gateway(), await w.gateway()
        await first.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        for number in range(5):
            later = task.model_copy(update={"task_id": f"{number:032x}"})
            await w.log.append_task(later)  # and the second gateway has had no turn to read it
            assert (await second.get(f"/check_status/{later.task_id}")).status_code == 200


async def test_a_failed_task_says_why():
    async with world() as w:
        client, _ = await w.gateway()
        url = (await client.post("/generate_image", json=BODY)).json()["status_url"]
        await w.end(w.tasks()[0], "failed", "out_of_memory")
        document = (await client.get(url)).json()
        assert document["error"] == {"code": "out_of_memory", "message": "It is out_of_memory."}
        assert document["error_message"] == "It is out_of_memory."


@pytest.mark.parametrize("path", ["/check_status/{}", "/get_image/{}", "/events/{}"])
@pytest.mark.parametrize("task_id", [NOBODY, "x", "A" * 32, NOBODY + "%0A", "%F0%9F%98%80", "%ED%A0%80", "%FF"])
async def test_a_task_id_that_names_no_task_is_unknown(path: str, task_id: str):
    async with world() as w:
        client, _ = await w.gateway()
        is_problem(await client.get(path.format(task_id)), 404, "unknown_task")


async def test_no_task_is_called_unknown_while_the_log_or_the_store_is_away():
    async with world() as w:
        client, _ = await w.gateway()
        w.broker.down = True
        is_problem(await client.get(f"/check_status/{NOBODY}"), 503, "queue_unavailable")
        is_problem(await client.get("/check_status/x"), 404, "unknown_task")
        w.broker.down, w.store.down = False, True
        is_problem(await client.get(f"/check_status/{NOBODY}"), 503, "store_unavailable")


async def test_a_cancel_reaches_the_owner_until_the_task_has_ended():
    async with world() as w:
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY)
        (task,) = w.tasks()
        url = f"/cancel_task/{task.task_id}"
        assert (await client.post(url)).status_code == 202
        assert w.cancels() == 1
        await w.end(task, "canceled", "canceled")
        answer = await client.post(url)
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
        assert w.cancels() == 1
        await client.post("/generate_image", json=BODY)
        done = w.tasks()[1]
        await w.end(done)
        is_problem(await client.post(f"/cancel_task/{done.task_id}"), 409, "already_ended")
        is_problem(await client.post(f"/cancel_task/{NOBODY}"), 404, "unknown_task")
