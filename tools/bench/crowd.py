"""One client's status requests while another client holds idle connections and listens to the events of a task."""

import asyncio
import contextlib
import http.client
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from adapters.kafka_log import KafkaLog
from config.settings import load_settings
from infra.local.process import ROOT, Process
from infra.local.stack import Stack
from tasks.events import Progress, Started
from tasks.log import Partition
from tools.bench.stage import percentile, quantiles, row, stack, title
from tools.bench.stub_runner import MODEL
from tools.bench.throughput import publish_model

STREAMS = 500
IDLE = 30
EVENTS_PER_SECOND = 4
"""A consumer emits at most this many progress events of a task in a second."""
LOOKS = 300
ROUNDS = 3
"""The three cases are measured in turns, because the load of the machine changes."""
_PAUSE = 0.01
"""Seconds between two status requests: they are spread over many events."""
_OTHER_ADDRESS = "127.0.0.2"
"""The crowd's address. On Linux all of 127.0.0.0/8 is loopback."""


def measure() -> None:
    """Print the table."""
    with stack() as built:
        asyncio.run(publish_model(built))
        gateway = built.gateway().wait_until_ready()
        watched, other = _submit(gateway), _submit(gateway)
        _request_statuses(gateway, other, LOOKS)
        quiet, busy, crowded = [], [], []
        for _ in range(ROUNDS):
            quiet += _request_statuses(gateway, other, LOOKS)
            with _crowd(built, gateway, "0", "0", watched):
                busy += _request_statuses(gateway, other, LOOKS)
            with _crowd(built, gateway, str(STREAMS), str(IDLE), watched):
                crowded += _request_statuses(gateway, other, LOOKS)
    title(f"GET /check_status beside another client's {IDLE} idle connections and {STREAMS} event streams of one task")
    row("", "p50", "p99", "requests")
    quantiles("alone", quiet)
    quantiles(f"a task has {EVENTS_PER_SECOND} events a second", busy)
    quantiles("the same, and the crowd listens", crowded)
    row("p99 with the crowd / p99 alone (goal < 3)", f"{percentile(crowded, 0.99) / percentile(quiet, 0.99):.2f}")


def _submit(gateway: Process) -> str:
    with contextlib.closing(http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)) as connection:
        body = f'{{"model_name": "{MODEL}", "prompt": "a red circle", "image_params": {{"steps": 10}}}}'
        connection.request("POST", "/generate_image", body, {"Content-Type": "application/json"})
        location = connection.getresponse().headers["Location"]
    return str(location.rpartition("/")[2])


def _request_statuses(gateway: Process, task_id: str, count: int) -> list[float]:
    """The seconds of each request."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=10)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", f"/check_status/{task_id}")
        answer = connection.getresponse()
        document = answer.read()
        seconds.append(time.perf_counter() - began)
        assert answer.status == 200, document
        time.sleep(_PAUSE)
    connection.close()
    return seconds


@contextlib.contextmanager
def _crowd(stack: Stack, gateway: Process, *arguments: str) -> Iterator[None]:
    """The crowd in a process of its own, and of lower priority: elsewhere it would not share the gateway's cores."""
    command = [sys.executable, "-m", "tools.bench.crowd", urlsplit(gateway.url).netloc, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=stack.env(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield
        assert process.poll() is None, "the crowd was sent away"
    finally:
        process.kill()
        process.wait()


async def _listen(netloc: str, streams: int, idle: int, task_id: str) -> None:
    host, port = netloc.split(":")
    connections = [
        await asyncio.open_connection(host, int(port), local_addr=(_OTHER_ADDRESS, 0)) for _ in range(idle + streams)
    ]
    for reader, writer in connections[:idle]:
        writer.write(b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    listening = []
    for reader, writer in connections[idle:]:
        writer.write(f"GET /events/{task_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status = await reader.readline()
        assert status.startswith(b"HTTP/1.1 200 "), status
        listening.append(asyncio.ensure_future(_read_all(reader)))
    print("listening", flush=True)
    await asyncio.gather(_emit(task_id), *listening)


async def _read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        continue
    raise AssertionError("the gateway ended the stream")


async def _emit(task_id: str) -> None:
    settings = load_settings()
    log = KafkaLog(settings)
    partition = await _partition(log, task_id)
    attempt = int(time.time())  # later than that of any crowd before
    await log.append_event(Started(task_id=task_id, at=time.time(), attempt=attempt, owner="o"), partition)
    for step in itertools.count(1):
        await asyncio.sleep(1 / EVENTS_PER_SECOND)
        log.emit(
            Progress(task_id=task_id, at=time.time(), attempt=attempt, owner="o", step=step, steps=9999), partition
        )


async def _partition(log: KafkaLog, task_id: str) -> Partition:
    async for batch in log.follow({}):
        for record in batch.records:
            if task_id.encode() in record.value:
                return record.place.partition
    raise AssertionError("the log ended")


if __name__ == "__main__":
    os.nice(5)
    asyncio.run(_listen(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
