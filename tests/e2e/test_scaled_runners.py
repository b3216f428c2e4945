"""A service without runners takes tasks; the answers of `GET /scale/{model}` start a runner and end it again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local import parts
from infra.local.ports import free_ports
from infra.local.process import Process
from tests.support.stack import ROOT, Api, Stack, until

LONG = {"steps": 150, "num_images": 4}


@pytest.fixture
def empty(kafka: Any, s3: Any, models: Path, tmp_path: Path) -> Iterator[Stack]:
    """A stack of its own, with topics and a bucket and nothing that runs."""
    stack = Stack(kafka.bootstrap, s3.env, models, tmp_path)
    stack.provision()
    with stack.running():
        yield stack


class Scaled:
    """One model's runner, which is started and ended as the gateway asks."""

    def __init__(self, stack: Stack, gateway: str, port: int) -> None:
        self.stack = stack
        self.url = gateway
        self.port = port
        self.runner: Process | None = None

    def scale(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/scale/sd-mini", timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def until(self, **expected: int) -> dict[str, Any]:
        """Wait for an answer with these values."""

        def matching() -> dict[str, Any] | None:
            scale = self.scale()
            return scale if expected.items() <= scale.items() else None

        return dict(until(matching, 90, f"a scale of {expected}"))

    def start_runner(self) -> Process:
        home = self.stack.folder / "runner"
        env = self.stack.env(MODEL_NAME="sd-mini", RUNNER_GRACE="60")
        self.runner = self.stack.start(parts.runner("scaled", home, self.port, env))
        return self.runner


def described(stack: Stack) -> str:
    command = [sys.executable, "-m", "runners.describe"]
    done = subprocess.run(
        command, cwd=ROOT, env=stack.env(MODEL_NAME="sd-mini"), capture_output=True, text=True, check=True
    )
    return done.stdout


def publish(stack: Stack, model: str) -> str:
    command = [sys.executable, "-m", "functions.consume.publish_models", "-"]
    done = subprocess.run(command, cwd=ROOT, env=stack.env(), input=model, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_runners_are_scaled_from_none_to_one_and_back_while_tasks_run(empty: Stack):
    ports = free_ports(2)
    gateway = empty.gateway(GATEWAY_NOTICE="0")
    consumer = empty.start(parts.consumer(ports[0], [f"http://127.0.0.1:{ports[1]}"], empty.env()))
    until(lambda: httpx.get(f"{consumer.url}/livez").status_code == 200, 60, "the consumer answers")
    assert httpx.get(f"{consumer.url}/readyz").status_code == 503, "no model is known"
    model = described(empty)
    assert publish(empty, model) == "sd-mini: published\n"
    for part in (gateway, consumer):
        part.wait_until_ready()
    api, scaled = Api(gateway.url), Scaled(empty, gateway.url, ports[1])
    assert scaled.scale()["runners_wanted"] == 0
    first = api.submit(image_params=LONG | {"num_images": 1})
    assert scaled.until(queued=1, runners=0, loading=0)["runners_wanted"] == 1
    runner = scaled.start_runner()
    later = [api.submit(image_params={"steps": 2}) for _ in range(3)]
    assert scaled.until(loading=1)["runners_wanted"] == 1
    scaled.until(running=1, runners=1, loading=0)
    assert publish(empty, model) == "sd-mini: left alone, because runners of it answer\n"
    for task in (first, *later):
        assert api.reached(task, "completed", "failed", seconds=120)["status"] == "completed"
    assert scaled.until(tasks=0)["runners_wanted"] == 0
    last = api.submit(image_params=LONG | {"num_images": 1})
    api.stepping(last)
    runner.terminate(90)
    ended = api.reached(last, "completed", "failed", seconds=60)
    assert (ended["status"], ended["attempt"]) == ("completed", 1), "a scale-down ends its tasks first"
    gone = scaled.until(runners=0, loading=0)
    assert (gone["tasks"], gone["runners_wanted"]) == (0, 0)
    api.submit()
    assert scaled.until(queued=1)["gpu_seconds"] > 0, "the speed that a runner has measured is kept"
