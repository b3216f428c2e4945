"""API keys: what a caller may see, cancel and submit, and that no key is written where it can be read."""

import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.api.api_keys import ApiKey, new_key
from functions.api.app import GatewayApp
from functions.api.openapi import OPERATIONS
from tests.support.gateway_world import BODY, GatewayWorld, is_problem, world
from tests.support.world import card

_TIMES = itertools.count(1_000_000_000)


def put(path: Path, *lines: ApiKey | str) -> None:
    """Write the file with a later modification time than before."""
    text = "".join(f"{line if isinstance(line, str) else line.model_dump_json(exclude_none=True)}\n" for line in lines)
    path.write_text(text)
    at = next(_TIMES)
    os.utime(path, (at, at))


@dataclass
class Keyed:
    """A gateway with keys on: alice's key is unlimited, bob's is for one lane and one model."""

    world: GatewayWorld
    client: httpx.AsyncClient
    gateway: GatewayApp
    path: Path
    alice: str
    bob: str
    lines: tuple[ApiKey, ...]

    async def post(self, key: str | None, **body: Any) -> httpx.Response:
        return await self.client.post("/generate_image", json={**BODY, **body}, headers=bearer(key))


def bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextlib.asynccontextmanager
async def keyed(tmp_path: Path) -> AsyncIterator[Keyed]:
    path = tmp_path / "keys.jsonl"
    alice, alices = new_key("alice")
    bob, bobs = new_key("bob", ["batch_task"], ["sd-mini"])
    put(path, "# who may", "", alices, bobs)
    async with world(api_keys_file=path) as w:
        await w.log.append_card(card("other"))
        client, gateway = await w.gateway()
        yield Keyed(w, client, gateway, path, alice, bob, (alices, bobs))


def calls(task_id: str) -> list[tuple[str, str, dict[str, str]]]:
    return [
        ("GET", f"/check_status/{task_id}", {}),
        ("GET", f"/check_status/{task_id}", {"Prefer": "wait=1"}),
        ("GET", f"/get_image/{task_id}", {}),
        ("HEAD", f"/get_image/{task_id}", {}),
        ("GET", f"/events/{task_id}", {}),
        ("POST", f"/cancel_task/{task_id}", {}),
    ]


async def test_without_the_setting_nobody_needs_a_key():
    async with world() as w:
        client, _ = await w.gateway()
        task_id = (await client.post("/generate_image", json={**BODY, "user_id": "ada"})).json()["task_id"]
        assert (await client.get(f"/check_status/{task_id}", headers=bearer("whatever"))).status_code == 200


async def test_every_route_of_the_api_refuses_a_request_without_a_key(tmp_path: Path):
    async with keyed(tmp_path) as k:
        for method, path in OPERATIONS:
            answer = await k.client.request(method, path.format(task_id="0" * 32, model="sd-mini"))
            problem = is_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert "X-API-Key" in problem["detail"]


async def test_health_and_documentation_stay_open(tmp_path: Path):
    async with keyed(tmp_path) as k:
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json", "/docs/errors"):
            assert (await k.client.get(path)).status_code == 200, path


@pytest.mark.parametrize("change", ["", "x", "aig_", "aig_000000000000_" + "0" * 64, "short", "long", "other id"])
async def test_a_malformed_or_unknown_key_is_refused(tmp_path: Path, change: str):
    async with keyed(tmp_path) as k:
        wrong = {
            "short": k.alice[:-1],
            "long": k.alice + "0",
            "other id": k.alice.replace(k.lines[0].id, k.lines[1].id),
        }.get(change, change)
        for headers in (
            {"Authorization": f"Bearer {wrong}"},
            {"X-API-Key": wrong},
            {"Authorization": f"Basic {k.alice}"},
        ):
            is_problem(await k.client.get("/models", headers=headers), 401, "unauthorized")


async def test_a_key_is_taken_from_either_header_but_never_two_of_them(tmp_path: Path):
    async with keyed(tmp_path) as k:
        for headers in (
            {"Authorization": f"bearer   {k.alice} "},
            {"X-API-Key": k.alice},
            {"X-API-Key": k.alice, "Authorization": f"Bearer {k.alice}"},
            {"X-API-Key": k.alice, "Authorization": "Basic for-the-proxy"},
        ):
            assert (await k.client.get("/models", headers=headers)).status_code == 200, headers
        both = [("Authorization", f"Bearer {k.alice}"), ("Authorization", f"Bearer {k.bob}")]
        is_problem(await k.client.get("/models", headers=both), 401, "unauthorized")


async def test_a_key_in_the_url_is_refused_beside_a_good_one_too_and_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    async with keyed(tmp_path) as k:
        escaped = "".join(f"%{ord(letter):02x}" for letter in k.alice)
        for url in (f"/models?api_key={k.alice}", f"/models?x={escaped}", f"/check_status/{k.alice}"):
            for headers in ({}, bearer(k.alice)):
                is_problem(await k.client.get(url, headers=headers), 400, "key_in_url")
        is_problem(await k.post(k.alice[:-1]), 401, "unauthorized")
        assert (await k.post(k.alice)).status_code == 202
        secret = k.alice.rpartition("_")[2]
        ours = [record for record in caplog.records if record.name not in ("httpx", "httpcore", "asyncio")]
        assert any("accepted" in record.getMessage() for record in ours)
        assert not any(secret[:20] in str(vars(record)) for record in ours)
        assert secret[:20] not in k.path.read_text()
        assert secret[:20] not in json.dumps([task.model_dump() for task in k.world.tasks()])


async def test_a_task_belongs_to_the_user_of_the_key_whatever_else_the_body_says(tmp_path: Path):
    async with keyed(tmp_path) as k:
        assert (await k.post(k.alice)).status_code == 202
        assert (await k.post(k.alice, user_id="alice")).status_code == 202
        assert [task.user_id for task in k.world.tasks()] == ["alice", "alice"]
        for claimed in ("bob", "anonymous"):
            problem = is_problem(await k.post(k.alice, user_id=claimed), 403, "not_allowed_by_key")
            assert (problem["field"], problem["allowed"]) == ("user_id", ["alice"])
        assert len(k.world.tasks()) == 2


@pytest.mark.parametrize("stage", ["queued", "running", "ended", "forgotten"])
async def test_another_users_task_is_answered_like_one_that_does_not_exist(tmp_path: Path, stage: str):
    async with keyed(tmp_path) as k:
        task_id = (await k.post(k.alice)).json()["task_id"]
        (task,) = k.world.tasks()
        if stage == "running":
            await k.world.run(task, step=3)
        if stage in ("ended", "forgotten"):
            await k.world.end(task, announced=stage == "ended")
        client = k.client
        if stage == "forgotten":
            for lane in k.world.settings.lane_names:
                k.world.broker.topics[lane].clear()
            client, _ = await k.world.gateway()
        for (method, path, more), (_, nothing, _) in zip(calls(task_id), calls("0" * 32), strict=True):
            answer = await client.request(method, path, headers=bearer(k.bob) | more)
            absent = await client.request(method, nothing, headers=bearer(k.bob) | more)
            assert (answer.status_code, absent.status_code) == (404, 404), (method, path)
            assert answer.text.replace(task_id, "") == absent.text.replace("0" * 32, "")
            assert answer.headers.keys() == absent.headers.keys()
        assert k.world.cancels() == 0
        status = await client.get(f"/check_status/{task_id}", headers=bearer(k.alice))
        assert status.json()["status"] == {"forgotten": "completed", "ended": "completed"}.get(stage, stage)
        picture = await client.get(f"/get_image/{task_id}", headers=bearer(k.alice))
        assert picture.status_code == (200 if stage in ("ended", "forgotten") else 409)


async def test_the_owner_of_a_task_cancels_it_and_follows_its_events(tmp_path: Path):
    async with keyed(tmp_path) as k:
        task_id = (await k.post(k.alice)).json()["task_id"]
        assert (await k.client.post(f"/cancel_task/{task_id}", headers=bearer(k.alice))).status_code == 202
        await k.world.end(k.world.tasks()[0], "canceled", "canceled")
        events = await k.client.get(f"/events/{task_id}", headers=bearer(k.alice))
        assert "event: end" in events.text


async def test_an_outcome_written_before_there_were_owners_belongs_to_no_user(tmp_path: Path):
    async with keyed(tmp_path) as k:
        task_id = (await k.post(k.alice)).json()["task_id"]
        outcome = await k.world.end(k.world.tasks()[0], announced=False)
        name = f"tasks/{task_id}/outcome.json"
        old = json.loads(k.world.store.objects[name])
        del old["task"]["user_id"]
        k.world.store.objects[name] = json.dumps(old).encode()
        for lane in k.world.settings.lane_names:
            k.world.broker.topics[lane].clear()
        assert outcome.task.user_id == "alice"
        later, _ = await k.world.gateway()
        is_problem(await later.get(f"/check_status/{task_id}", headers=bearer(k.alice)), 404, "unknown_task")


async def test_the_same_idempotency_key_of_two_users_is_two_tasks(tmp_path: Path):
    async with keyed(tmp_path) as k:
        ids = [
            (
                await k.client.post(
                    "/generate_image",
                    json={**BODY, "topic": "batch_task"},
                    headers=bearer(key) | {"Idempotency-Key": "1"},
                )
            ).json()["task_id"]
            for key in (k.alice, k.bob, k.alice)
        ]
        assert ids[0] == ids[2] != ids[1]


async def test_a_refusal_names_the_lanes_and_models_of_the_key(tmp_path: Path):
    async with keyed(tmp_path) as k:
        problem = is_problem(await k.post(k.bob, topic="online_task"), 403, "not_allowed_by_key")
        assert (problem["field"], problem["allowed"]) == ("topic", ["ai_image_gen.batch_task"])
        for model in ("other", "nothing"):
            problem = is_problem(await k.post(k.bob, model_name=model), 403, "not_allowed_by_key")
            assert problem["field"] == "model_name"
            assert problem["allowed"] == ["sd-mini", "stable-diffusion-v1-5"]
        assert k.world.tasks() == []
        for body in ({}, {"topic": "batch_task"}, {"model_name": "stable-diffusion-v1-5"}):
            assert (await k.post(k.bob, **body)).status_code == 202
        assert {task.topic for task in k.world.tasks()} == {"ai_image_gen.batch_task"}


async def test_the_models_listed_are_those_the_key_may_use(tmp_path: Path):
    async with keyed(tmp_path) as k:
        listed = {
            user: [
                entry["model_name"] for entry in (await k.client.get("/models", headers=bearer(key))).json()["models"]
            ]
            for user, key in (("alice", k.alice), ("bob", k.bob))
        }
        assert listed == {
            "alice": ["other", "sd-mini", "stable-diffusion-v1-5"],
            "bob": ["sd-mini", "stable-diffusion-v1-5"],
        }


async def test_a_key_for_a_model_that_is_not_there_yet_learns_of_no_other(tmp_path: Path):
    async with keyed(tmp_path) as k:
        carol, line = new_key("carol", models=["later"])
        put(k.path, line)
        problem = is_problem(await k.post(carol, model_name="later"), 422, "unknown_model")
        assert problem["allowed"] == []
        await k.world.log.append_card(card("later"))
        assert (await k.world.gateway())[0]
        assert (await k.post(carol, model_name="later")).status_code == 202


async def test_keys_come_and_go_with_the_file(tmp_path: Path):
    async with keyed(tmp_path) as k:
        carol, line = new_key("carol")
        is_problem(await k.post(carol), 401, "unauthorized")
        put(k.path, line, k.lines[1])
        assert (await k.post(carol)).status_code == 202
        is_problem(await k.post(k.alice), 401, "unauthorized")
        put(k.path)
        is_problem(await k.post(carol), 401, "unauthorized")


async def test_a_new_key_of_the_same_user_sees_the_tasks_of_the_old_one(tmp_path: Path):
    async with keyed(tmp_path) as k:
        task_id = (await k.post(k.alice)).json()["task_id"]
        newer, line = new_key("alice")
        put(k.path, line)
        assert (await k.client.get(f"/check_status/{task_id}", headers=bearer(newer))).status_code == 200


@pytest.mark.parametrize("broken", ["gone", "no JSON", "a misspelled limit", "no UTF-8", "twice"])
async def test_a_file_that_cannot_be_used_changes_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
):
    async with keyed(tmp_path) as k:
        carol, line = new_key("carol")
        match broken:
            case "gone":
                k.path.unlink()
            case "no UTF-8":
                k.path.write_bytes(b"\xff")
            case "twice":
                put(k.path, line, line)
            case "a misspelled limit":
                put(k.path, line.model_dump_json(exclude_none=True)[:-1] + f', "lane": ["{carol}"]}}')
            case _:
                put(k.path, line, carol)
        for _ in range(3):
            assert (await k.post(k.alice)).status_code == 202
            is_problem(await k.post(carol), 401, "unauthorized")
        logged = [record.getMessage() for record in caplog.records if "keys" in record.getMessage()]
        assert len(logged) == 1
        assert str(k.path) in logged[0]
        assert carol not in logged[0]
        put(k.path, line)
        assert (await k.post(carol)).status_code == 202


async def test_the_document_asks_for_a_key_where_one_is_needed(tmp_path: Path):
    async with keyed(tmp_path) as k:
        document = (await k.client.get("/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
        for operations in document["paths"].values():
            for operation in operations.values():
                assert operation["security"] == [{"bearer": []}, {"key": []}]
                assert "unauthorized" in operation["responses"]["401"]["description"]
        assert "malformed_body" in document["paths"]["/generate_image"]["post"]["responses"]["400"]["description"]
    async with world() as w:
        document = (await (await w.gateway())[0].get("/openapi.json")).json()
        assert "securitySchemes" not in document["components"]
