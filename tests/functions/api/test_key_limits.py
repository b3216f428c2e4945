"""A name means one thing: what a limited key may run is asked about the model and the lane that would run."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.clock import settle
from functions.api.api_keys import new_key
from tasks.fingerprint import fingerprint
from tasks.task import GenerateRequest
from tests.support.gateway_world import BODY, GatewayWorld, is_problem, world
from tests.support.world import card


@dataclass
class Limited:
    """A gateway, and one key that is limited to some lanes and models."""

    world: GatewayWorld
    client: httpx.AsyncClient
    key: str

    async def post(self, **body: Any) -> httpx.Response:
        return await self.client.post(
            "/generate_image", json={**BODY, **body}, headers={"Authorization": f"Bearer {self.key}"}
        )

    async def listed(self) -> list[dict[str, Any]]:
        answer = await self.client.get("/models", headers={"X-API-Key": self.key})
        entries: list[dict[str, Any]] = answer.json()["models"]
        return entries


@contextlib.asynccontextmanager
async def limited(
    tmp_path: Path,
    models: Sequence[str] = (),
    lanes: Sequence[str] = (),
    cards: Mapping[str, Sequence[str]] = {},
    **settings: object,
) -> AsyncIterator[Limited]:
    """`cards`: the aliases of each model beside sd-mini."""
    key, line = new_key("bob", lanes, models)
    (tmp_path / "keys").write_text(line.model_dump_json(exclude_none=True))
    async with world(api_keys_file=tmp_path / "keys", **settings) as w:
        for model, aliases in cards.items():
            await w.log.append_card(card(model, aliases=tuple(aliases)))
        client, _ = await w.gateway()
        yield Limited(w, client, key)


async def test_an_alias_that_is_also_a_model_does_not_open_that_model(tmp_path: Path):
    async with limited(tmp_path, ["b"], cards={"a": (), "b": ("a",)}) as k:
        problem = is_problem(await k.post(model_name="a"), 403, "not_allowed_by_key")
        assert problem["allowed"] == ["b"]
        assert k.world.tasks() == []
        assert (await k.post(model_name="b")).status_code == 202


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_an_alias_of_two_models_opens_only_the_one_that_it_means(tmp_path: Path, order: Sequence[str]):
    async with limited(tmp_path, ["b"], cards=dict.fromkeys(order, ("both",))) as k:
        is_problem(await k.post(model_name="both"), 403, "not_allowed_by_key")
        assert k.world.tasks() == []


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_a_key_for_an_alias_of_two_models_opens_one_of_them(tmp_path: Path, order: Sequence[str]):
    async with limited(tmp_path, ["both"], cards=dict.fromkeys(order, ("both",))) as k:
        assert (await k.post(model_name="both")).status_code == 202
        assert {task.model_name for task in k.world.tasks()} == {"a"}
        problem = is_problem(await k.post(model_name="b"), 403, "not_allowed_by_key")
        assert problem["allowed"] == ["a", "both"]


async def test_a_key_for_a_name_that_became_a_model_opens_no_model_with_that_alias(tmp_path: Path):
    async with limited(tmp_path, ["real"], cards={"small": ("real",), "real": ()}) as k:
        is_problem(await k.post(model_name="small"), 403, "not_allowed_by_key")
        assert (await k.post(model_name="real")).status_code == 202
        assert {task.model_name for task in k.world.tasks()} == {"real"}


@pytest.mark.parametrize("models", [["a"], ["b"], ["a-also"], ["both"], ["c"], ["a", "c"], ["nothing"], []])
async def test_the_list_of_models_agrees_with_what_the_key_may_run(tmp_path: Path, models: Sequence[str]):
    cards = {"c": ("both", "b"), "b": ("both", "a"), "a": ("a-also", "both", "a-also", "c")}
    async with limited(tmp_path, models, cards=cards) as k:
        names = {
            *cards,
            "sd-mini",
            *(alias for aliases in cards.values() for alias in aliases),
            "stable-diffusion-v1-5",
        }
        answers = {name: await k.post(model_name=name) for name in sorted(names)}
        runs = {name: answer.json()["model_name"] for name, answer in answers.items() if answer.status_code == 202}
        assert [(entry["model_name"], entry["alias_of"] or entry["model_name"]) for entry in await k.listed()] == [
            *runs.items()
        ]


async def test_each_name_is_listed_once_with_the_model_that_it_means(tmp_path: Path):
    async with limited(tmp_path, cards={"b": ("both", "a"), "a": ("both", "a")}) as k:
        entries = [(entry["model_name"], entry["alias_of"], entry["aliases"]) for entry in await k.listed()]
        assert entries == [
            ("a", None, ["both"]),
            ("b", None, []),
            ("both", "a", []),
            ("sd-mini", None, ["stable-diffusion-v1-5"]),
            ("stable-diffusion-v1-5", "sd-mini", []),
        ]


async def test_a_name_that_changes_its_meaning_during_a_submit_is_asked_about_again(tmp_path: Path, monkeypatch):
    async with limited(tmp_path, ["b"], cards={"b": ("x",)}) as k:
        put_once = k.world.store.put_once

        async def meanwhile(*given: Any) -> Any:
            await k.world.log.append_card(card("x"))
            await settle()
            return await put_once(*given)

        monkeypatch.setattr(k.world.store, "put_once", meanwhile)
        answer = await k.client.post(
            "/generate_image",
            json={**BODY, "model_name": "x"},
            headers={"X-API-Key": k.key, "Idempotency-Key": "1"},
        )
        is_problem(answer, 403, "not_allowed_by_key")
        assert k.world.tasks() == []


@pytest.mark.parametrize("of_key", ["batch_task", "ai_image_gen.batch_task"])
async def test_a_lane_of_a_key_is_meant_by_its_short_or_its_full_name(tmp_path: Path, of_key: str):
    async with limited(tmp_path, lanes=[of_key]) as k:
        for topic in ({}, {"topic": None}, {"topic": "batch_task"}, {"topic": "ai_image_gen.batch_task"}):
            assert (await k.post(**topic)).status_code == 202
        for topic in ("online_task", "ai_image_gen.online_task", "nowhere", "x.batch_task", "task", "batch_task."):
            problem = is_problem(await k.post(topic=topic), 403, "not_allowed_by_key")
            assert problem["allowed"] == ["ai_image_gen.batch_task"]
        assert {task.topic for task in k.world.tasks()} == {"ai_image_gen.batch_task"}


async def retried(k: Limited, tmp_path: Path, lanes: Sequence[str] = (), **body: Any) -> httpx.Response:
    """The same user's request with the same Idempotency-Key and a new key, limited to these lanes."""
    key, line = new_key("bob", lanes)
    path = tmp_path / "keys.new"
    path.write_text(line.model_dump_json(exclude_none=True))
    path.replace(tmp_path / "keys")
    return await k.client.post(
        "/generate_image", json={**BODY, **body}, headers={"X-API-Key": key, "Idempotency-Key": "1"}
    )


async def test_a_retry_with_a_replaced_key_of_the_user_is_the_same_task(tmp_path: Path):
    async with limited(tmp_path) as k:
        first = await retried(k, tmp_path)
        for lanes in (["batch_task"], ["ai_image_gen.online_task"], ["nowhere"], ()):
            for body in ({}, {"topic": None}, {"user_id": "bob"}):
                again = await retried(k, tmp_path, lanes, **body)
                assert (again.status_code, again.json()["task_id"]) == (202, first.json()["task_id"])
        assert len(k.world.tasks()) == 1
        other = await retried(k, tmp_path, prompt="another")
        is_problem(other, 422, "idempotency_key_reused")


async def test_a_lane_by_its_short_and_its_full_name_is_the_same_request(tmp_path: Path):
    async with limited(tmp_path) as k:
        answers = [
            await retried(k, tmp_path, lanes, topic=topic)
            for lanes in ((), ["batch_task"])
            for topic in ("batch_task", "ai_image_gen.batch_task")
        ]
        assert [answer.status_code for answer in answers] == [202] * 4
        assert len(k.world.tasks()) == 1
        is_problem(await retried(k, tmp_path, topic="online_task"), 422, "idempotency_key_reused")


async def test_an_alias_and_its_model_are_two_requests(tmp_path: Path):
    async with limited(tmp_path) as k:
        assert (await retried(k, tmp_path, model_name="stable-diffusion-v1-5")).status_code == 202
        is_problem(await retried(k, tmp_path), 422, "idempotency_key_reused")


@pytest.mark.parametrize("lanes", [(), ["batch_task"]])
async def test_a_gateway_of_the_first_version_recognises_the_retry_of_a_new_task(tmp_path: Path, lanes: Sequence[str]):
    async with limited(tmp_path) as k:
        assert (await retried(k, tmp_path, lanes)).status_code == 202
        (task,) = k.world.tasks()
        request = GenerateRequest.model_validate({**BODY, "user_id": "bob"})
        topic = "ai_image_gen.batch_task" if lanes else None
        assert task.fingerprint == fingerprint(request.model_copy(update={"topic": topic}))
