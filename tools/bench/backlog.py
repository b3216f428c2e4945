"""100,000 queued tasks that no runner takes: memory, the time of a status request, and the time of a restart."""

import asyncio
import http.client
import random
import time
import uuid
from urllib.parse import urlsplit

import httpx

from adapters.kafka_log import KafkaLog
from infra.local.process import Process, until
from infra.local.stack import Stack
from tasks.accept import accept
from tasks.task import GenerateRequest
from tools.bench.stage import quantiles, resident, row, stack, title
from tools.bench.stub_runner import MODEL, SERVED_MODEL
from tools.bench.throughput import publish_model

TASKS = 100_000
LOOKS = 1000
_AT_ONCE = 2000
_READ_SECONDS = 150.0
_GAUGES = ("ai_image_gen_gateway_queued{", "ai_image_gen_queue_depth{")


def measure() -> None:
    """Print the table."""
    with stack() as built:
        asyncio.run(publish_model(built))
        gateway, consumer = built.gateway().wait_until_ready(), built.consumer()
        until(lambda: _knows_its_partitions(consumer), 60, "the consumer's partitions")
        empty = resident(gateway), resident(consumer)
        began = time.monotonic()
        ids = asyncio.run(_enqueue(built))
        wrote = time.monotonic() - began
        until(lambda: _knows_all(gateway), _READ_SECONDS, "the gateway's view")
        until(lambda: _knows_all(consumer), _READ_SECONDS, "the consumer's view")
        full = resident(gateway), resident(consumer)
        status_seconds = _request_statuses(gateway, ids)
        restarts = [_restart(gateway), _restart(consumer)]
        restarted = resident(gateway), resident(consumer)
    title(f"{TASKS} queued tasks (written in {wrote:.0f} s)")
    row("", "gateway", "consumer")
    for what, megabytes in (("memory with nothing queued", empty), ("memory with all queued", full)):
        row(what, *(f"{part:.0f} MiB" for part in megabytes))
    row("memory after the restart", *(f"{part:.0f} MiB" for part in restarted))
    row("restart (kill -9) until all is read again", *(f"{seconds:.1f} s" for seconds in restarts))
    row("", "p50", "p99", "requests")
    quantiles("GET /check_status of a random one", status_seconds)


async def _enqueue(stack: Stack) -> list[str]:
    settings = stack.read_settings()
    task_log = KafkaLog(settings)
    request = GenerateRequest(model_name=MODEL, prompt="a red circle on a blue background")
    task = accept(
        request, task_id="0" * 32, models={MODEL: SERVED_MODEL}, lanes=settings.lane_names, created_at=time.time()
    )
    ids = [uuid.uuid4().hex for _ in range(TASKS)]
    users = [f"user-{n}" for n in range(100)]
    for start in range(0, TASKS, _AT_ONCE):
        await asyncio.gather(
            *(
                task_log.append_task(task.model_copy(update={"task_id": task_id, "user_id": random.choice(users)}))
                for task_id in ids[start : start + _AT_ONCE]
            )
        )
    await task_log.close()
    return ids


def _queued(part: Process) -> float:
    """How many queued tasks the metrics of the part report."""
    try:
        page = httpx.get(f"{part.url}/metrics", timeout=10).text
    except httpx.TransportError:
        return 0
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(_GAUGES) and MODEL in line
    )


def _knows_all(part: Process) -> bool:
    return _queued(part) >= TASKS


def _knows_its_partitions(part: Process) -> bool:
    try:
        return "partitions of the queue" not in httpx.get(f"{part.url}/readyz", timeout=5).json()["missing"]
    except httpx.TransportError:
        return False


def _request_statuses(gateway: Process, ids: list[str]) -> list[float]:
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)
    seconds = []
    for task_id in random.sample(ids, LOOKS):
        began = time.monotonic()
        connection.request("GET", f"/check_status/{task_id}")
        answer = connection.getresponse()
        document = answer.read()
        seconds.append(time.monotonic() - began)
        assert answer.status == 200, document
    connection.close()
    return seconds


def _restart(part: Process) -> float:
    part.kill()
    began = time.monotonic()
    part.start()
    until(lambda: _knows_all(part), _READ_SECONDS, f"{part.name} again")
    return time.monotonic() - began
