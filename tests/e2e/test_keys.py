"""API keys on the real parts."""

from pathlib import Path

import httpx
import psutil
import pytest

from functions.api.api_keys import new_key
from tests.support.stack import Api, Process, Stack, until


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    path.touch()
    return path


@pytest.fixture(scope="module")
def guarded(stack: Stack, api: Api, keys_file: Path) -> Process:
    """A second gateway of the same service, with keys on."""
    return stack.gateway(API_KEYS_FILE=str(keys_file)).wait_until_ready()


def test_a_user_gets_the_image_and_another_user_learns_nothing_of_the_task(
    guarded: Process, keys_file: Path, stack: Stack
):
    alice, alices = new_key("alice")
    bob, bobs = new_key("bob", ["batch_task"], ["flux-mini"])
    # The gateway reads the file while it runs: no restart is needed.
    keys_file.write_text("".join(f"{line.model_dump_json(exclude_none=True)}\n" for line in (alices, bobs)))
    body = {"model_name": "sd-mini", "prompt": "a red circle on a blue background"}
    wait = {"Prefer": "wait=60", "Accept": "image/*"}
    with httpx.Client(base_url=guarded.url, timeout=90) as client:
        assert client.post("/generate_image", json=body).status_code == 401
        picture = client.post("/generate_image", json=body, headers=wait | {"Authorization": f"Bearer {alice}"})
        assert picture.headers["content-type"] == "image/png", picture.text
        task_id = picture.headers["x-task-id"]
        for path in ("check_status", "get_image", "events"):
            assert client.get(f"/{path}/{task_id}", headers={"X-API-Key": alice}).status_code == 200
            assert client.get(f"/{path}/{task_id}", headers={"X-API-Key": bob}).status_code == 404
        assert client.post(f"/cancel_task/{task_id}", headers={"X-API-Key": bob}).status_code == 404
        assert client.post(f"/cancel_task/{task_id}", headers={"X-API-Key": alice}).status_code == 409
        refused = client.post("/generate_image", json=body, headers={"X-API-Key": bob})
        assert (refused.status_code, refused.json()["allowed"]) == (403, ["flux-1-dev", "flux-mini"])
        assert client.get(f"/models?key={alice}").status_code == 400
        keys_file.write_text(f"{bobs.model_dump_json(exclude_none=True)}\n")
        assert client.get(f"/check_status/{task_id}", headers={"X-API-Key": alice}).status_code == 401
    written = [guarded.log, *(stack.folder / "logs").iterdir()]
    assert any(task_id in log.read_text() for log in written)
    assert not any(alice.rpartition("_")[2] in log.read_text() for log in written)


def test_by_default_every_part_listens_on_loopback_alone(guarded: Process, stack: Stack):
    running = [part for part in stack.parts if part.exit_code is None]
    assert guarded in running
    for part in running:
        sockets = [
            connection.laddr.ip
            for process in part.processes()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(sockets) == {"127.0.0.1"}, part.name


def test_a_gateway_whose_keys_cannot_be_read_ends_with_a_sentence(stack: Stack):
    part = stack.gateway(API_KEYS_FILE=str(stack.folder / "nowhere.jsonl"))
    until(lambda: part.exit_code is not None, 60, "the gateway ended")
    assert "nowhere.jsonl cannot be read" in part.log.read_text()
