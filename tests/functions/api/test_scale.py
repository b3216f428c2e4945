"""What an autoscaler reads: the same tasks at every gateway, and never fewer than the log holds."""

from pathlib import Path

import pytest

from adapters.clock import settle
from functions.api.api_keys import new_key
from functions.status.task_index import TaskIndex
from tests.support.gateway_world import BODY, is_problem, world
from tests.support.world import card

SCALE = "/scale/sd-mini"
WORK = 64 * 64 * 10 / 1e6 * 10.0
"""GPU seconds of one task of BODY."""


async def test_the_answer_counts_queued_and_running_tasks_of_all_users():
    async with world(scale_target_wait=1.0) as w:
        client, _ = await w.gateway()
        for user in ("ada", "bob", "bob", "eve", "eve"):
            assert (await client.post("/generate_image", json={**BODY, "user_id": user})).status_code == 202
        await w.run(w.tasks()[0])
        assert (await client.get(SCALE)).json() == {
            "model_name": "sd-mini",
            "tasks": 5,
            "queued": 4,
            "running": 1,
            "gpu_seconds": pytest.approx(5 * WORK, abs=0.001),
            "runners": 1,
            "loading": 0,
            "target_wait": 1.0,
            "runners_wanted": 3,
        }
        for task in w.tasks():
            await w.end(task)
        ended = (await client.get(SCALE)).json()
        assert (ended["tasks"], ended["gpu_seconds"], ended["runners_wanted"]) == (0, 0.0, 0)


async def test_every_gateway_gives_the_same_answer_also_one_that_starts_later():
    async with world(scale_target_wait=1.0) as w:
        first, _ = await w.gateway()
        for _ in range(4):
            await first.post("/generate_image", json=BODY)
        await w.run(w.tasks()[0], step=3)
        await w.end(w.tasks()[1])
        # The cost of a queued task follows the speed that is known now, not the one at its submit.
        await w.log.append_card(card(aliases=("stable-diffusion-v1-5",), seconds_per_megapixel_step=33.3))
        await settle()
        later, _ = await w.gateway()
        answer = (await first.get(SCALE)).json()
        assert answer["tasks"] == 3
        assert answer == (await later.get(SCALE)).json() == (await later.get("/scale/stable-diffusion-v1-5")).json()


async def test_a_gateway_that_has_not_read_the_whole_log_gives_no_number(monkeypatch: pytest.MonkeyPatch):
    async with world() as w:
        client, _ = await w.gateway()
        reached = TaskIndex.reached

        async def never(index: TaskIndex, ends: object, seconds: float) -> bool:
            return await reached(index, {("ai_image_gen.online_task", 0): 10**9}, 0.01)

        monkeypatch.setattr(TaskIndex, "reached", never)
        is_problem(await client.get(SCALE), 503, "starting_up")
        w.broker.down = True
        is_problem(await client.get(SCALE), 503, "queue_unavailable")


async def test_a_model_without_runners_keeps_its_gateway_ready_and_takes_tasks():
    async with world() as w:
        await w.log.append_card(card(runners=0, seconds_per_megapixel_step=0.0))
        client, _ = await w.gateway()
        assert (await client.get("/readyz")).status_code == 200
        accepted = await client.post("/generate_image", json=BODY)
        assert (accepted.status_code, accepted.json()["position"]) == (202, 0)
        answer = (await client.get(SCALE)).json()
        assert (answer["runners"], answer["tasks"], answer["runners_wanted"]) == (0, 1, 1)


async def test_runners_that_load_are_counted_apart_and_no_further_one_is_wanted():
    async with world(scale_target_wait=0.1) as w:
        client, _ = await w.gateway()
        for _ in range(9):
            await client.post("/generate_image", json=BODY)
        assert (await client.get(SCALE)).json()["runners_wanted"] == 9
        await w.log.append_card(card(runners=1, loading=2))
        await settle()
        answer = (await client.get(SCALE)).json()
        assert (answer["runners"], answer["loading"], answer["runners_wanted"]) == (1, 2, 3)
        entry = next(m for m in (await client.get("/models")).json()["models"] if m["model_name"] == "sd-mini")
        assert (entry["runners"], entry["loading"]) == (1, 2)


async def test_a_key_reads_the_totals_of_the_models_it_may_use(tmp_path: Path):
    key, line = new_key("scaler", lanes=["none"], models=["sd-mini"])
    user, other = new_key("ada")
    (tmp_path / "keys").write_text("\n".join(each.model_dump_json(exclude_none=True) for each in (line, other)))
    async with world(api_keys_file=tmp_path / "keys") as w:
        await w.log.append_card(card("flux-mini"))
        client, _ = await w.gateway()
        await client.post("/generate_image", json=BODY, headers={"X-API-Key": user})
        is_problem(await client.get(SCALE), 401, "unauthorized")
        answer = await client.get(SCALE, headers={"X-API-Key": key})
        assert (answer.status_code, answer.json()["tasks"]) == (200, 1)
        is_problem(await client.get("/scale/flux-mini", headers={"X-API-Key": key}), 403, "not_allowed_by_key")
        # A lane that does not exist makes a key that reads and never submits.
        is_problem(
            await client.post("/generate_image", json=BODY, headers={"X-API-Key": key}), 403, "not_allowed_by_key"
        )
