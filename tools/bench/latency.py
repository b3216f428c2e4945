"""The time from submit to the runner's first event on an idle system, compared with calling the runner directly."""

import http.client
import json
import time
import uuid
from urllib.parse import urlsplit

import httpx

from infra.local.process import Process
from tasks.runner_api import RunRequest
from tools.bench.stage import percentile, quantiles, row, stack, title
from tools.bench.stub_runner import MODEL

TASKS = 300
_PAUSE = 0.1
"""Seconds between tasks, long enough for the last one to be stored and its outcome to be read."""
_REQUEST = {"model_name": MODEL, "width": 64, "height": 64, "steps": 1, "guidance_scale": 5.0, "scheduler": "ddim"}


def measure() -> None:
    """Print the table."""
    with stack() as built:
        runner = built.python("stub", "-m", "tools.bench.stub_runner").wait_until_ready()
        consumer, gateway = built.consumer(runner), built.gateway()
        consumer.wait_until_ready()
        gateway.wait_until_ready()
        _submit(gateway, 20)
        submits, answers = _submit(gateway, TASKS)
        direct = _call_runner(runner, TASKS)
        arrived = httpx.get(f"{runner.url}/times").json()
    missing = [task_id for task_id in submits if task_id not in arrived]
    assert not missing, f"{len(missing)} tasks never reached the runner"
    queue = [arrived[task_id] - began for task_id, began in submits.items()]
    straight = [arrived[task_id] - began for task_id, began in direct.items()]
    title("submit to the runner's first event, idle (goal p50 <= 6 ms, p99 <= 15 ms)")
    row("", "p50", "p99", "tasks")
    quantiles("through gateway, Kafka and consumer", queue)
    quantiles("straight to the runner", straight)
    quantiles("the 202 to the client", answers)
    row("what the queue adds at the median", f"{(percentile(queue, 0.5) - percentile(straight, 0.5)) * 1e3:.2f} ms")


def _submit(gateway: Process, count: int) -> tuple[dict[str, float], list[float]]:
    """When each task was submitted, by its id, and the seconds until each 202."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)
    body = json.dumps({"model_name": MODEL, "prompt": "a red circle on a blue background"})
    began: dict[str, float] = {}
    answers = []
    for _ in range(count):
        at = time.time()
        connection.request("POST", "/generate_image", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
        answers.append(time.time() - at)
        assert answer.status == 202, document
        began[document["task_id"]] = at
        time.sleep(_PAUSE)
    connection.close()
    return began, answers


def _call_runner(runner: Process, count: int) -> dict[str, float]:
    """When each request was sent to the runner, by the task's id."""
    connection = http.client.HTTPConnection(urlsplit(runner.url).netloc, timeout=10)
    began: dict[str, float] = {}
    for _ in range(count):
        task_id = uuid.uuid4().hex
        body = RunRequest(task_id=task_id, prompt="a red circle on a blue background", seed=1, **_REQUEST)
        began[task_id] = time.time()
        connection.request("POST", "/run", body.model_dump_json(), {"Content-Type": "application/json"})
        connection.getresponse().read()
        time.sleep(0.01)
    connection.close()
    return began
