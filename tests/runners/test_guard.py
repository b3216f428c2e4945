"""Who may call a runner: consumers on its network, and no web page that a browser of its machine or network shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from config.settings import Settings
from runners.model_folder import inspect
from runners.server import ModelServer, build_app
from tasks.runner_api import FRAMES, Request, encode
from tests.runners.test_server import body

JSON = {"Content-Type": "application/json"}
SECRET = "a-secret-of-this-test"
Serve = Callable[..., TestClient]


@pytest.fixture
def serve(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Makes a client of a runner with these settings. The runner never finishes loading, so a request that it takes is
    answered `runner_loading`."""
    monkeypatch.setattr(ModelServer, "start", lambda self, failed: None)

    def make(**settings: Any) -> TestClient:
        given = Settings.model_validate({"model_name": "sd-mini", "model_cache_dir": cache} | settings)
        return TestClient(build_app(inspect(cache, "sd-mini"), given), base_url="http://127.0.0.1:3001")

    return make


def taken(answer: httpx.Response) -> bool:
    """Whether the runner took the request. Otherwise it must have refused it, with a problem that gives the reason."""
    if answer.status_code in (403, 415):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in ("caller_refused", "unsupported_media_type")
        return False
    assert answer.status_code in (200, 503)
    return True


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/plain;application/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json, text/plain"},
        {"Content-Type": ""},
        {},
        JSON | {"Origin": "https://page.example"},
        JSON | {"Origin": "null"},
        JSON | {"Origin": "http://127.0.0.1:3001"},
        {"Content-Type": FRAMES, "Origin": "https://page.example"},
        JSON | {"Sec-Fetch-Site": "cross-site"},
        JSON | {"Sec-Fetch-Site": "same-site"},
        JSON | {"Sec-Fetch-Site": "same-origin"},
        JSON | {"Host": "page.example:3001"},
        JSON | {"Host": "127.0.0.1.page.example"},
        JSON | {"Host": "localhost.page.example"},
        JSON | {"Host": "page.example@127.0.0.1"},
        JSON | {"Host": ""},
    ],
)
def test_a_request_that_a_web_page_can_send_is_refused(serve: Serve, headers: dict[str, str]) -> None:
    assert not taken(serve().post("/run", content=json.dumps(body()), headers=headers))


def test_one_header_of_two_does_not_let_a_request_in(serve: Serve) -> None:
    for twice in (
        [("Content-Type", "application/json"), ("Content-Type", "text/plain")],
        [("Content-Type", "application/json"), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")],
        [("Content-Type", "application/json"), ("Host", "127.0.0.1"), ("Host", "page.example")],
        [("Content-Type", "application/json"), ("Authorization", "Bearer x"), ("Authorization", f"Bearer {SECRET}")],
    ):
        client = serve(runner_secret=SECRET)
        secret = [] if dict(twice).get("Authorization") else [("Authorization", f"Bearer {SECRET}")]
        assert not taken(client.post("/run", content=json.dumps(body()), headers=[*twice, *secret]))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:3001", "10.1.2.3", "[::1]:3001", "[fd00::7]", "localhost:3001", "LOCALHOST"]
)
def test_a_consumer_reaches_a_runner_by_address_or_as_localhost(serve: Serve, host: str) -> None:
    for headers in (JSON, {"Content-Type": "application/json; charset=utf-8"}, JSON | {"Sec-Fetch-Site": "none"}):
        assert taken(serve().post("/run", content=json.dumps(body()), headers=headers | {"Host": host}))
    frames = encode(Request(payload=json.dumps(body()).encode()))
    assert taken(serve().post("/run", content=frames, headers={"Content-Type": FRAMES, "Host": host}))


def test_a_runner_is_called_by_the_names_that_its_setting_lists(serve: Serve) -> None:
    client = serve(runner_allowed_hosts="Runners.example,runner-sd")
    for host, allowed in (("runners.example:443", True), ("RUNNER-SD", True), ("x.runners.example", False)):
        assert taken(client.get("/models", headers={"Host": host})) == allowed


@pytest.mark.parametrize("path", ["/models", "/card", "/metrics", "/nothing", "/run/"])
def test_no_address_but_the_probes_answers_a_web_page(serve: Serve, path: str) -> None:
    client = serve()
    for headers in ({"Host": "page.example"}, {"Origin": "https://page.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert not taken(client.get(path, headers=headers))
        assert client.get("/livez", headers=headers).status_code == 200
        assert client.get("/readyz", headers=headers).json()["code"] == "runner_loading"


def test_no_answer_sends_a_caller_to_the_host_that_it_named(serve: Serve) -> None:
    for path in ("/run/", "/models/", "//models"):
        answer = serve().post(path, headers={"Host": "10.0.0.1"}, follow_redirects=False)
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.fixture
def guarded(serve: Serve) -> TestClient:
    """A client of a runner that asks for the secret."""
    return serve(runner_secret=SECRET)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        SECRET,
        "Bearer",
        "Bearer ",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET}x",
        f"Basic {SECRET}",
        "Bearer é",
    ],
)
def test_without_its_secret_a_runner_gives_nothing_away_and_does_nothing(guarded: TestClient, sent: str | None) -> None:
    headers = JSON if sent is None else JSON | {"Authorization": sent.encode("latin-1")}
    for answer in (
        guarded.post("/run", content=json.dumps(body()), headers=headers),
        guarded.get("/models", headers=headers),
        guarded.get("/card", headers=headers),
    ):
        assert not taken(answer)
        assert "RUNNER_SECRET" in answer.json()["detail"]
        assert SECRET not in answer.text


def test_with_its_secret_a_runner_takes_tasks_and_describes_itself(guarded: TestClient) -> None:
    headers = JSON | {"Authorization": f"Bearer {SECRET}"}
    assert taken(guarded.post("/run", content=json.dumps(body()), headers=headers))
    assert guarded.get("/models", headers=headers).status_code == 200


def test_probes_and_metrics_need_no_secret(guarded: TestClient) -> None:
    assert guarded.get("/livez").status_code == 200
    assert guarded.get("/readyz").json()["code"] == "runner_loading"
    assert "ai_image_gen_runner" in guarded.get("/metrics").text
