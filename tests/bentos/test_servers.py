"""The BentoML servers, whichever command starts them: where they listen, and which connections they end."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bentoml._internal.utils.circus import create_standalone_arbiter
from circus.arbiter import Arbiter

from bentos.control import keep_control_inside
from infra.local import parts
from infra.local.ports import free_ports
from infra.local.process import ROOT, Part, Process, until
from infra.local.servers import HOST
from tests.support.sockets import open_to_others

MODEL = "sd-mini"
BOTH_LENGTHS = (
    b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of parts without a broker and a store, and a folder with a small model."""
    models = tmp_path_factory.mktemp("model_cache")
    subprocess.run([sys.executable, "-m", "tools.miniatures.build", "--into", str(models)], cwd=ROOT, check=True)
    (nothing,) = free_ports(1)
    return {
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{nothing}",
        "AWS_ENDPOINT_URL_S3": f"http://{HOST}:{nothing}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MODEL_CACHE_DIR": str(models),
        "LOG_DIR": "-",
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(tmp_path_factory.mktemp("bentoml")),
    }


@pytest.fixture(scope="module")
def servers(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """The gateway and a runner, from the repository and as built Bentos, each with the command that starts it."""
    folder = tmp_path_factory.mktemp("servers")
    ports = iter(free_ports(4))
    table = [
        parts.gateway(folder / "gateway", next(ports), env),
        parts.runner("runner", folder / "runner", next(ports), env | {"MODEL_NAME": MODEL}),
        built("gateway", next(ports), env, "build.build_gateway()"),
        built("runner", next(ports), env, f"build.build_runner(Path({env['MODEL_CACHE_DIR']!r}), {MODEL!r})"),
    ]
    processes = {part.name: Process(part, folder / f"{part.name}.log") for part in table}
    try:
        for process in processes.values():
            process.start()
        yield processes
    finally:
        for process in processes.values():
            process.kill()


def built(name: str, port: int, env: dict[str, str], build: str) -> Part:
    """The Bento that this call builds, started as the entry point of its container starts it."""
    command = f"from pathlib import Path; from bentos import build; print({build})"
    run = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    tag = run.stdout.split()[-1]
    bento = Path(env["BENTOML_HOME"], "bentos", *tag.split(":"))
    part = parts.python(f"built-{name}", port, ("-m", "bentoml", "serve", "--port", str(port), str(bento)), env)
    return replace(part, by_worker=True)


@pytest.mark.parametrize("name", ["gateway", "runner", "built-gateway", "built-runner"])
def test_a_server_listens_on_its_http_port_and_nowhere_else(servers: dict[str, Process], name: str) -> None:
    server = servers[name]
    until(lambda: answers(f"{server.url}/livez"), 120, f"an answer of {name}")
    assert len(server.processes()) == 2
    assert open_to_others(server.processes()) == {f"tcp {server.url.removeprefix('http://')}"}


@pytest.mark.parametrize("name", ["gateway", "runner", "built-gateway", "built-runner"])
def test_a_server_ends_the_connection_of_an_ambiguous_request(servers: dict[str, Process], name: str) -> None:
    server = servers[name]
    until(lambda: answers(f"{server.url}/livez"), 120, f"an answer of {name}")
    with socket.create_connection((HOST, int(server.url.rpartition(":")[2])), timeout=30) as line:
        line.sendall(BOTH_LENGTHS + b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def answers(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def arbiters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arbiters of this test keep control inside, those of other tests are as they were."""
    monkeypatch.setattr(Arbiter, "__init__", Arbiter.__init__)
    keep_control_inside()


@pytest.mark.usefixtures("arbiters")
def test_two_servers_of_one_process_have_ends_of_their_own() -> None:
    endpoints = []
    for _ in range(2):
        arbiter = create_standalone_arbiter([])
        endpoints += [arbiter.endpoint, arbiter.pubsub_endpoint]
    assert all(endpoint.startswith("inproc://") for endpoint in endpoints)
    assert len(set(endpoints)) == 4


@pytest.mark.usefixtures("arbiters")
def test_a_server_that_would_need_control_ports_does_not_start() -> None:
    with pytest.raises(SystemExit, match="--reload"):
        create_standalone_arbiter([], plugins=[{"use": "bentoml.reload"}])
