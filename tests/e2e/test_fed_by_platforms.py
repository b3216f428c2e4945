"""The handler as AWS Lambda and Knative call it, on the real log, store and runner."""

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from adapters.s3_store import S3Store
from infra.local.parts import python
from infra.local.ports import free_ports
from tasks.events import Outcome
from tests.support.stack import ROOT, Process, Stack

CALL = """
import json, sys
from functions.consume.lambda_ import handler
class Context:
    def get_remaining_time_in_millis(self): return 60_000
event = json.load(sys.stdin)
for _ in range(2): print(json.dumps(handler(event, Context())))
"""


@pytest.fixture
def pushed(stack: Stack, sd_runner: Process, tmp_path: Path) -> Iterator[Stack]:
    """A namespace that no consumer process reads, with the same runner."""
    sd_runner.wait_until_ready()
    pushed = Stack(stack.bootstrap, stack.s3_env, stack.models, tmp_path)
    pushed.settings = {
        **stack.settings,
        "RUNNER_URLS": sd_runner.url,
        "LOG_DIR": str(tmp_path / "logs"),
        "CONSUMER_PORT": str(free_ports(1)[0]),
    }
    pushed.provision()
    with pushed.running():
        yield pushed


def task_record() -> tuple[str, bytes]:
    """The id and the value of a task record as any Kafka client may write it."""
    task_id = uuid.uuid4().hex
    record = {"task_id": task_id, "model_name": "sd-mini", "prompt": "a red circle", "image_params": {"steps": 3}}
    return task_id, json.dumps(record).encode()


async def stored_outcome(pushed: Stack, task_id: str, monkeypatch: pytest.MonkeyPatch) -> Outcome | None:
    """The outcome of the task in the store."""
    for name, value in pushed.env().items():
        monkeypatch.setenv(name, value)
    return await S3Store(pushed.read_settings()).get_outcome(task_id)


async def test_a_knative_event_is_answered_once_its_picture_is_stored(pushed: Stack, monkeypatch: pytest.MonkeyPatch):
    port = int(pushed.settings["CONSUMER_PORT"])
    command = ("-m", "functions.consume.knative")
    part = pushed.start(python("knative", port, command, pushed.env())).wait_until_ready()
    task_id, value = task_record()
    headers = {
        "ce-specversion": "1.0",
        "ce-type": "dev.knative.kafka.event",
        "ce-source": f"/apis/v1/namespaces/images/kafkasources/tasks#{pushed.prefix}.online_task",
        "ce-id": "partition:0/offset:0",
        "ce-time": "2026-11-24T10:15:30.123Z",
        "content-type": "application/json",
    }
    for _ in range(2):
        assert httpx.post(part.url, content=value, headers=headers, timeout=60).status_code == 204
    outcome = await stored_outcome(pushed, task_id, monkeypatch)
    assert outcome is not None
    assert (outcome.status, outcome.tries) == ("completed", 1)
    assert part.terminate(20) == 0


async def test_a_lambda_call_ends_its_tasks_and_a_warm_second_call_runs_nothing_twice(
    pushed: Stack, monkeypatch: pytest.MonkeyPatch
):
    task_id, value = task_record()
    lane = f"{pushed.prefix}.online_task"
    record = {
        "topic": lane,
        "partition": 0,
        "offset": 0,
        "timestamp": 1795515330123,
        "timestampType": "CREATE_TIME",
        "key": base64.b64encode(b"sd-mini").decode(),
        "value": base64.b64encode(value).decode(),
        "headers": [],
    }
    event = {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": pushed.bootstrap,
        "records": {f"{lane}-0": [record]},
    }
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=ROOT,
        env=pushed.env(),
        input=json.dumps(event),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert answers == ['{"batchItemFailures": []}'] * 2
    outcome = await stored_outcome(pushed, task_id, monkeypatch)
    assert outcome is not None
    assert (outcome.status, outcome.tries) == ("completed", 1)
