"""The real parts as real processes on free ports, for tests that use the service as a person would."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import free_ports

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0


def until(condition: Callable[[], Any], seconds: float = 30.0, what: str = "the condition") -> Any:
    """Poll until the condition holds and give its value; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


@dataclass
class Part:
    """One process group: a gateway, a consumer or a runner."""

    name: str
    command: list[str]
    env: Mapping[str, str]
    log: Path
    url: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Part":
        """Start it (again)."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=dict(self.env), stdout=log, stderr=log, start_new_session=True
            )
        return self

    def ready(self) -> "Part":
        """Wait until it says that it is ready."""
        until(self._is_ready, START_SECONDS, f"{self.name} ready (log: {self.log})")
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} died:\n{self.log.read_text()[-3000:]}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all it has started: BentoML's worker lives in a session of its own."""
        assert self.process is not None
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> list[psutil.Process]:
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            return [*parent.children(recursive=True), parent]
        return []

    def kill(self) -> None:
        """End it the hard way, with everything it started."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def terminate(self, seconds: float = 40.0) -> int:
        """End it the soft way; the exit code."""
        assert self.process is not None
        family = self._family()
        self.process.terminate()
        code = self.process.wait(seconds)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return code


@dataclass
class Stack:
    """A namespace on a real broker and store, and the parts that run in it."""

    bootstrap: str
    s3_env: Mapping[str, str]
    models: Path
    folder: Path
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    parts: list[Part] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a part."""
        return {
            **os.environ,
            **self.s3_env,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA_TOPIC_PREFIX": self.prefix,
            "KAFKA_GROUP": f"{self.prefix}.consumer",
            "KAFKA_PARTITIONS": "4",
            "S3_BUCKET": f"{self.prefix}-pictures",
            "MODEL_CACHE_DIR": str(self.models),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            **self.settings,
            **more,
        }

    def provision(self) -> None:
        """Create the topics and the bucket."""
        subprocess.run([sys.executable, "-m", "infra.local.provision"], cwd=ROOT, env=self.env(), check=True)

    def runner(self, model: str, **more: str) -> Part:
        """A runner of the model, started, not waited for."""
        return self._serve(f"runner-{model}", "bentos.runner:RunnerService", MODEL_NAME=model, **more)

    def gateway(self, **more: str) -> Part:
        """A gateway, started, not waited for."""
        return self._serve("gateway", "bentos.gateway:GatewayService", **more)

    def consumer(self, *runners: Part, **more: str) -> Part:
        """A consumer that feeds these runners, started, not waited for."""
        port = free_ports(1)[0]
        env = self.env(
            RUNNER_URLS=",".join(runner.url for runner in runners),
            CONSUMER_PORT=str(port),
            LOG_DIR=str(self.folder / "logs"),
            **more,
        )
        return self._add("consumer", [sys.executable, "-m", "functions.consume"], env, port)

    def _serve(self, name: str, service: str, **more: str) -> Part:
        port = free_ports(1)[0]
        home = self.folder / f"bentoml-{port}"
        home.mkdir(parents=True)
        env = self.env(BENTOML_HOME=str(home), LOG_DIR=str(self.folder / "logs"), **more)
        command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
        command += ["--timeout-keep-alive", "75"]
        return self._add(name, command, env, port)

    def _add(self, name: str, command: list[str], env: Mapping[str, str], port: int) -> Part:
        log = self.folder / f"{name}-{port}.log"
        part = Part(name, command, env, log, f"http://127.0.0.1:{port}")
        self.parts.append(part)
        return part.start()

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        """The stack; whatever still runs at the end is killed."""
        try:
            yield self
        finally:
            for part in reversed(self.parts):
                part.kill()


@dataclass
class Api:
    """What a person does with the service."""

    url: str

    def post(self, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        """POST /generate_image."""
        return httpx.post(f"{self.url}/generate_image", json=body, headers=headers, timeout=90)

    def model_names(self) -> set[str]:
        """Every name GET /models lists."""
        return {model["model_name"] for model in httpx.get(f"{self.url}/models", timeout=30).json()["models"]}

    def submit(self, model: str = "sd-mini", prompt: str = "a red circle on a blue background", **more: Any) -> str:
        """Submit a task; its id."""
        answer = self.post({"model_name": model, "prompt": prompt, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        """GET /check_status."""
        answer = httpx.get(f"{self.url}/check_status/{task_id}", timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def cancel(self, task_id: str) -> httpx.Response:
        """POST /cancel_task."""
        return httpx.post(f"{self.url}/cancel_task/{task_id}", timeout=30)

    def image(self, task_id: str, **params: Any) -> httpx.Response:
        """GET /get_image."""
        return httpx.get(f"{self.url}/get_image/{task_id}", params=params, timeout=30)

    def reached(self, task_id: str, *statuses: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the task's status is one of these; the status document."""

        def there() -> dict[str, Any] | None:
            status = self.status(task_id)
            return status if status["status"] in statuses else None

        return dict(until(there, seconds, f"task {task_id} {'|'.join(statuses)}"))

    def stepping(self, task_id: str) -> dict[str, Any]:
        """Wait until the task has done a step."""

        def there() -> dict[str, Any] | None:
            status = self.status(task_id)
            assert status["status"] in ("queued", "running"), status
            return status if (status["progress"] or {}).get("step") else None

        return dict(until(there, 60, f"task {task_id} steps"))
