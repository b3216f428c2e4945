"""How long each part takes to end on SIGTERM under load, and how long after its kill -9 the work goes on.

What is killed is started again at once, as a platform would. Work goes on when a task submitted after the kill is
completed.
"""

import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from infra.local.servers import S3, Kafka
from tests.conftest import free_ports
from tests.support.stack import Api, Part, Stack, until
from tools.bench.stage import row, title
from tools.miniatures.build import build_minis

_STEPS = 20
_SECONDS = 400.0


@dataclass
class _Server:
    """Broker or store, as a part that can be killed and started."""

    server: Kafka | S3
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = self.server.command()
        with (self.server.folder / "log.txt").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)


def measure() -> None:
    """Print the tables."""
    with _house() as (built, servers):
        runner = built.runner("sd-mini")
        consumer, gateway = built.consumer(runner), built.gateway()
        parts = {"runner": runner, "consumer": consumer, "gateway": gateway}
        for part in parts.values():
            until(lambda part=part: _ready(part), _SECONDS, f"{part.name} ready")  # type: ignore[misc]
        api = Api(gateway.url)
        until(lambda: "sd-mini" in api.model_names(), _SECONDS, "the model known")
        with _load(api):
            title("SIGTERM to exit, under load (seconds)")
            for name, part in parts.items():
                began = time.monotonic()
                code = part.terminate(_SECONDS)
                row(f"{name} (exit code {code})", f"{time.monotonic() - began:.2f}")
                part.start()
                until(lambda part=part: _ready(part), _SECONDS, f"{name} ready")  # type: ignore[misc]
                _next_task(api)
            title("kill -9, started again at once, to the next completed task (seconds)")
            row("", "to the next", "of which start")
            for name, victim in (*parts.items(), *servers.items()):
                _killed(api, name, victim)


def _killed(api: Api, name: str, part: Part | _Server) -> None:
    part.kill()
    began = time.monotonic()
    part.start()
    until(lambda: _ready(part), _SECONDS, f"{name} ready")
    ready = time.monotonic() - began
    _next_task(api)
    row(name, f"{time.monotonic() - began:.2f}", f"{ready:.2f}")


def _ready(part: Part | _Server) -> bool:
    return part._is_ready() if isinstance(part, Part) else part.server.ready()


def _next_task(api: Api) -> None:
    """Submit, as often as it takes, and wait for the picture."""
    body = {"model_name": "sd-mini", "prompt": "a red circle", "image_params": {"steps": 1}, "user_id": "watch"}

    def done() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{api.url}/generate_image", json=body, headers={"Prefer": "wait=60"}, timeout=70)
            return answer.status_code == 200 and answer.json()["status"] == "completed"
        return False

    until(done, _SECONDS, "a task completed")


@contextlib.contextmanager
def _load(api: Api) -> Iterator[None]:
    """One user who always has a task waiting and one running."""
    stop = threading.Event()

    def work() -> None:
        body = {"model_name": "sd-mini", "prompt": "a ring", "image_params": {"steps": _STEPS}}
        while not stop.is_set():
            with contextlib.suppress(httpx.TransportError):
                httpx.post(f"{api.url}/generate_image", json=body, headers={"Prefer": "wait=10"}, timeout=20)
            stop.wait(0.2)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@contextlib.contextmanager
def _house() -> Iterator[tuple[Stack, dict[str, _Server]]]:
    """Broker and store, which can be killed too, with topics and bucket; no part runs yet."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    kafka_port, controller_port, s3_port = free_ports(3)
    kafka, s3 = Kafka(folder / "kafka", kafka_port, controller_port), S3(folder / "s3", s3_port)
    servers = {"broker": _Server(kafka), "store": _Server(s3)}
    try:
        (folder / "models").mkdir()
        build_minis(folder / "models")
        for name, server in servers.items():
            server.start()
            until(server.server.ready, _SECONDS, f"{name} ready")
        built = Stack(kafka.bootstrap, s3.env, folder / "models", folder)
        built.provision()
        with built.running():
            yield built, servers
    finally:
        for server in servers.values():
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)
