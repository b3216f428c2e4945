"""Idempotency-Key: the same key and body is the same task, at every gateway and for ever."""

import pytest

from tests.support.gateway_world import BODY, is_problem, world


async def test_the_same_key_and_body_is_the_same_task_at_every_gateway():
    async with world() as w:
        (first, _), (second, _) = await w.gateway(), await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        first_answer = (await first.post("/generate_image", json=BODY, headers=headers)).json()
        reordered = dict(reversed(BODY.items()))
        second_answer = (await second.post("/generate_image", json=reordered, headers=headers)).json()
        assert first_answer["task_id"] == second_answer["task_id"]
        assert len(w.tasks()) == 1


async def test_a_reused_key_is_refused_and_another_users_is_another_task():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        first_answer = (await client.post("/generate_image", json=BODY, headers=headers)).json()
        other = {**BODY, "prompt": "a blue circle"}
        is_problem(await client.post("/generate_image", json=other, headers=headers), 422, "idempotency_key_reused")
        ada = (await client.post("/generate_image", json={**BODY, "user_id": "ada"}, headers=headers)).json()
        assert ada["task_id"] != first_answer["task_id"]
        assert len(w.tasks()) == 2


async def test_a_repeated_key_says_how_the_task_ended_after_the_log_has_forgotten_it():
    async with world() as w:
        client, _ = await w.gateway()
        headers = {"Idempotency-Key": "k1"}
        first_answer = (await client.post("/generate_image", json=BODY, headers=headers)).json()
        await w.end(w.tasks()[0], announced=False)
        for lane in w.settings.lane_names:
            w.broker.topics[lane].clear()
        later, _ = await w.gateway()
        second_answer = await later.post("/generate_image", json=BODY, headers=headers)
        assert (second_answer.status_code, second_answer.json()["task_id"], second_answer.json()["status"]) == (
            200,
            first_answer["task_id"],
            "completed",
        )
        assert w.tasks() == []


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_an_idempotency_key_that_is_empty_long_or_unprintable_is_refused(key: str):
    async with world() as w:
        client, _ = await w.gateway()
        answer = await client.post("/generate_image", json=BODY, headers={"Idempotency-Key": key})
        is_problem(answer, 422, "invalid_request")


async def test_two_idempotency_keys_in_one_request_are_refused():
    async with world() as w:
        client, _ = await w.gateway()
        lines = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        problem = is_problem(await client.post("/generate_image", json=BODY, headers=lines), 422, "invalid_request")
        assert problem["field"] == "Idempotency-Key"
        assert w.tasks() == []
