"""Requests for another host, as a page sends them that points its own name at the gateway (DNS rebinding): all are
refused, no answer is made of the Host header, and no page can put an answer into a frame."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from config.settings import load_settings
from functions.api import app as gateway_app
from functions.api.face import Face, FaceParts
from functions.api.gateway import Gateway
from functions.api.hosts import Hosts
from functions.api.problems import Problem
from tests.support.gateway_world import BODY, GatewayWorld, world

NOBODY = "0" * 32
ROUTES = [
    ("GET", "/models"), ("POST", "/generate_image"), ("GET", f"/check_status/{NOBODY}"), ("GET", f"/get_image/{NOBODY}"),
    ("GET", f"/preview/{NOBODY}"), ("GET", f"/events/{NOBODY}"), ("POST", f"/cancel_task/{NOBODY}"), ("GET", "/metrics"),
    ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/docs/errors"), ("GET", "/openapi.json"), ("GET", "/nothing"),
    ("GET", "/docs/oauth2-redirect"), ("GET", "/static-offline-docs/swagger-ui.css"), ("OPTIONS", "/generate_image"),
    ("HEAD", "/models"), ("GET", "/livez/"), ("GET", "/readyz/../models"), ("GET", "/toy/v1/draw"), ("GET", "//livez"),
]  # fmt: skip
OTHERS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example#localhost",
    "localhost@evil.example", "evil.example@localhost", "localhost,evil.example", "localhost evil.example", "", ".",
    "localhost..", "0.0.0.0", "10.0.0.7", "[::]", "[2001:db8::1]", "::1", "[::1", "[::1%25eth0]", "[::1]evil.example",
    "localhost:port", "localhost:80:80", "localhost:999999", "http://localhost", "localhost/", "127.1", "0x7f.0.0.1",
    "2130706433", "017700000001", "127.0.0.1\u00e9", "x" * 300, "localhost\\evil.example", "*", "%6cocalhost",
]  # fmt: skip
OWN = [
    "localhost", "LOCALHOST", "localhost.", "localhost:8000", "localhost:", "LocalHost.:1", "127.0.0.1", "127.0.0.1:8000",
    "127.9.9.9", "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]:8000",
]  # fmt: skip


def add_toy_face(app: FastAPI, parts: FaceParts) -> None:
    def render(problem: Problem, headers: Mapping[str, str]) -> Response:
        return JSONResponse({"error": problem.code}, problem.status, headers)

    async def draw(*_: object) -> Response:
        return JSONResponse({})

    Face(app, parts, render, "/toy/v1").add("GET", "/draw", draw)


async def ask(
    w: GatewayWorld, method: str, target: str, hosts: list[str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """One request with exactly these Host headers: its status, headers and body. `target`: as it is on the wire."""
    _, gateway = await w.gateway()
    path, _, query = target.partition("?")
    headers = [(b"host", host.encode("latin-1")) for host in hosts]
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "client": ("a", 1),
        "headers": [*headers, (b"content-type", b"application/json")], "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    messages: list[dict[str, Any]] = []

    received = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(received, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        messages.append(message)

    await gateway.app(scope, receive, send)
    got = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], got, b"".join(message.get("body", b"") for message in messages[1:])


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_but_the_probes_refuses_another_host(method: str, path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateway_app, "FACES", {"/toy/v1": add_toy_face})
    async with world() as w:
        status, headers, body = await ask(w, method, path, ["evil.example"], json.dumps(BODY).encode())
        assert (status, headers["content-type"]) == (421, "application/problem+json")
        assert json.loads(body)["code"] == "unknown_host"
        assert b"evil.example" not in body
        assert w.tasks() == []


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
@pytest.mark.parametrize("hosts", [["10.0.0.7:8000"], ["evil.example"], [], ["["]])
async def test_a_probe_is_answered_to_any_host(path: str, hosts: list[str]):
    async with world() as w:
        status, *_ = await ask(w, "GET", path, hosts)
        assert status == 200


@pytest.mark.parametrize("host", OTHERS)
async def test_a_host_that_only_looks_like_one_of_ours_is_refused(host: str):
    async with world() as w:
        assert (await ask(w, "GET", "/models", [host]))[0] == 421


@pytest.mark.parametrize("host", OWN)
async def test_a_loopback_host_is_answered_however_it_is_written(host: str):
    async with world() as w:
        assert (await ask(w, "GET", "/models", [host]))[0] == 200


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"], ["evil.example", "localhost"]]
)
async def test_a_request_with_no_host_or_with_several_is_refused(hosts: list[str]):
    async with world() as w:
        assert (await ask(w, "GET", "/models", hosts))[0] == 421


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/models", "localhost", 200),
        ("http://127.0.0.1:8000/models", "evil.example", 200),
        ("HTTP://[::1]/models", "evil.example", 200),
        ("https://localhost/models", "evil.example", 200),
        ("http://evil.example/models", "localhost", 421),
        ("http://evil.example/livez", "localhost", 200),
        ("http://localhost@evil.example/models", "localhost", 421),
        ("http://evil.example@localhost/models", "localhost", 421),
        ("http:///models", "localhost", 421),
        ("http://localhost", "localhost", 404),
        ("http://localhost/models/", "localhost", 404),
        ("http://localhost/nothing?http://evil.example", "localhost", 404),
        ("http://localhost%2fmodels", "localhost", 421),
        ("http:/localhost/models", "localhost", 404),
        ("ftp://localhost/models", "localhost", 404),
        ("*", "localhost", 404),
        ("evil.example:443", "localhost", 404),
    ],
)
async def test_the_host_of_an_absolute_target_goes_before_the_header(target: str, host: str, status: int):
    async with world() as w:
        got, _, body = await ask(w, "GET", target, [host])
        assert got == status, body


async def test_an_absolute_target_is_the_same_request_as_its_path():
    async with world() as w:
        status, headers, body = await ask(
            w, "POST", "http://localhost/generate_image", ["localhost"], json.dumps(BODY).encode()
        )
        assert (status, headers["location"]) == (202, json.loads(body)["status_url"])
        (task,) = w.tasks()
        for path in ("/check_status/", "/check%5fstatus/"):
            assert (await ask(w, "GET", f"http://localhost{path}{task.task_id}?index=0", ["localhost"]))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/generate_image/", "/models/", "/docs/", "/docs/errors/", "/redoc/", "/openapi.json/", "/metrics/", "/livez/",
        "/readyz/", f"/check_status/{NOBODY}/", "//evil.example/models/", "/static-offline-docs", "/toy/v1/draw/", "/toy/v1",
        "/toy/v1/", "/generate_image//", "/docs/oauth2-redirect/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("allowed", ["localhost", "*"])
async def test_no_path_is_answered_by_a_redirect(path: str, method: str, allowed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateway_app, "FACES", {"/toy/v1": add_toy_face})
    async with world(allowed_hosts=(allowed,)) as w:
        host = "evil.example" if allowed == "*" else "localhost"
        status, headers, body = await ask(w, method, path, [host], json.dumps(BODY).encode())
        assert status in (404, 405)
        assert "location" not in headers
        assert b"evil.example" not in body.replace(path.encode(), b"")


@pytest.mark.parametrize(
    ("environ", "yes", "no"),
    [
        ({}, ["localhost"], ["gateway"]),
        ({"PUBLIC_URL": "https://Images.Example.com:444/a"}, ["images.example.com", "localhost", "IMAGES.example.com.:1"],
         ["example.com", "x.images.example.com"]),
        ({"PUBLIC_URL": "http://192.168.1.5:8000"}, ["192.168.1.5:8000", "192.168.1.5"], ["192.168.1.6"]),
        ({"PUBLIC_URL": "http://[2001:db8::1]:8000"}, ["[2001:db8::1]:8000", "[2001:DB8:0::1]"], ["[2001:db8::2]"]),
        ({"ALLOWED_HOSTS": "a.example,b.example."}, ["a.example", "b.example", "localhost", "127.0.0.1"], ["c.example"]),
        ({"ALLOWED_HOSTS": "*.example"}, ["a.example", "a.b.EXAMPLE."], ["example", "aexample", "a.example.evil"]),
        ({"ALLOWED_HOSTS": "10.0.0.0/8,fd00::/8"}, ["10.1.2.3:8000", "[fd00::1]"], ["11.0.0.1", "[fe80::1]", "a.10.0.0.1"]),
        ({"ALLOWED_HOSTS": "*"}, ["evil.example", "[", ""], []),
        ({"LISTEN_HOST": "0.0.0.0"}, ["evil.example", "gateway:8000"], []),
        ({"LISTEN_HOST": "::"}, ["gateway:8000"], []),
        ({"LISTEN_HOST": "192.168.1.5"}, ["192.168.1.5:8000"], []),
        ({"LISTEN_HOST": "0.0.0.0", "ALLOWED_HOSTS": "gateway"}, ["gateway", "localhost:8000"], ["evil.example"]),
        ({"LISTEN_HOST": "192.168.1.5", "ALLOWED_HOSTS": "gateway"}, ["192.168.1.5:8000"], ["192.168.1.6", "0.0.0.0"]),
        ({"LISTEN_HOST": "0.0.0.0", "ALLOWED_HOSTS": "gateway"}, ["127.0.0.1"], ["0.0.0.0", "192.168.1.6"]),
        ({"LISTEN_HOST": "127.0.0.2"}, ["127.0.0.2", "localhost"], ["evil.example"]),
        ({"LISTEN_HOST": "::1"}, ["[::1]", "localhost"], ["evil.example"]),
    ],
)  # fmt: skip
def test_the_settings_say_which_hosts_are_ours(environ: dict[str, str], yes: list[str], no: list[str]):
    hosts = Hosts(load_settings(environ))
    assert [host for host in yes if host not in hosts] == []
    assert [host for host in no if host in hosts] == []


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/errors", "/docs/oauth2-redirect", "/nothing", "/toy/v1/no"])
async def test_no_page_and_no_problem_can_be_framed_or_taken_for_another_type(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gateway_app, "FACES", {"/toy/v1": add_toy_face})
    async with world() as w:
        for host in ("localhost", "evil.example"):
            _, headers, _ = await ask(w, "GET", path, [host])
            assert headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("down", [False, True])
async def test_an_internal_error_and_an_unready_gateway_cannot_be_framed(down: bool, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Gateway, "models", fail)
    async with world() as w:
        w.store.down = down
        client, _ = await w.gateway()
        answer = await client.get("/readyz" if down else "/models")
        assert answer.status_code == (503 if down else 500)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
