"""Every part is replaced under load as platforms do it: start the new one, wait until it is ready, SIGTERM the old one.

No request fails, and no attempt is wasted.
"""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.support.stack import Process, Stack, until

USERS = 4
NOTICE = "5"
PROBE_SECONDS = 0.25


class Balancer:
    """A load balancer before the gateways: it sends each request to a gateway that was ready and never repeats one."""

    def __init__(self, *urls: str) -> None:
        """Balance between these gateways, which count as ready at first."""
        self.urls = list(urls)
        self._ready: list[str] = list(urls)

    def probe(self) -> None:
        """Check which gateways are ready."""
        self._ready = [url for url in self.urls if _is_ready(url)]

    def url(self) -> str:
        """The URL of a ready gateway; of any gateway while none is ready, as load balancers do."""
        return random.choice(self._ready or self.urls)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class RestartLoad:
    """The requests of several users until `stopped` is set."""

    balancer: Balancer
    tasks: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["RestartLoad"]:
        """Run the load in its own threads until the end of the block."""
        work = [self._probe, self._submit_and_wait, self._submit_and_follow, *[self._submit_and_poll] * USERS]
        threads = [threading.Thread(target=self._repeat, args=(action,)) for action in work]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join(120)

    def _repeat(self, work: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(timeout=60) as client:
            while not self.stopped.is_set():
                try:
                    work(client)
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{work.__name__}: {error!r}")

    def _probe(self, _: httpx.Client) -> None:
        self.balancer.probe()
        self.stopped.wait(PROBE_SECONDS)

    def _call(self, client: httpx.Client, method: str, path: str, *expected: int, **more: Any) -> httpx.Response:
        answer = client.request(method, self.balancer.url() + path, **more)
        assert answer.status_code in expected, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        self.requests[path.split("/")[1]] += 1
        return answer

    def _submit(self, client: httpx.Client, steps: int, **headers: str) -> str:
        body = {"model_name": "sd-mini", "prompt": "a red circle", "image_params": {"steps": steps}}
        answer = self._call(client, "POST", "/generate_image", 200, 202, json=body, headers=headers)
        self.tasks.add(answer.json()["task_id"])
        return str(answer.json()["task_id"])

    def _submit_and_poll(self, client: httpx.Client) -> None:
        task_id = self._submit(client, 4)
        while self._call(client, "GET", f"/check_status/{task_id}", 200).json()["status"] in ("queued", "running"):
            time.sleep(0.25)
        self._call(client, "GET", f"/get_image/{task_id}", 200)

    def _submit_and_wait(self, client: httpx.Client) -> None:
        task_id = self._submit(client, 40, Prefer="wait=30")
        while self._call(client, "GET", f"/check_status/{task_id}", 200, headers={"Prefer": "wait=30"}).json()[
            "status"
        ] in ("queued", "running"):
            time.sleep(0.05)

    def _submit_and_follow(self, client: httpx.Client) -> None:
        task_id = self._submit(client, 40)
        lines: list[str] = []
        while "event: end" not in lines:
            with client.stream("GET", f"{self.balancer.url()}/events/{task_id}") as answer:
                assert answer.status_code == 200
                lines = [line for line in answer.iter_lines() if line]
            assert "event: end" in lines or lines[-1] == ": this gateway is about to end; connect again", lines[-3:]
            self.requests["events"] += 1
            time.sleep(0.05)


@pytest.fixture
def own_stack(kafka: Any, s3: Any, models: Path, tmp_path: Path) -> Iterator[Stack]:
    """A stack with its own namespace."""
    own_stack = Stack(kafka.bootstrap, s3.env, models, tmp_path, settings={"GATEWAY_NOTICE": NOTICE})
    own_stack.provision()
    with own_stack.running():
        yield own_stack


def events(stack: Stack) -> list[dict[str, Any]]:
    """Every record of the events topic."""
    topic = f"{stack.prefix}.events"
    reader = Consumer({"bootstrap.servers": stack.bootstrap, "group.id": "reads-all", "enable.partition.eof": True})
    try:
        parts = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in reader.list_topics(topic).topics[topic].partitions]
        reader.assign(parts)
        read, ended = [], 0
        while ended < len(parts):
            message = reader.poll(10)
            assert message is not None
            if message.error() is not None:
                ended += 1
            else:
                read.append(json.loads(message.value() or b"{}"))
        return read
    finally:
        reader.close()


def ready(part: Process) -> Process:
    """Wait until the part is ready: beside the load it needs longer than alone."""
    return part.wait_until_ready(300)


def end(part: Process) -> float:
    """Send SIGTERM. Returns the seconds until the part has ended; its exit code must be 0."""
    began = time.monotonic()
    code = part.terminate(60)
    assert code == 0, f"{part.name} ended with {code}:\n{part.log.read_text()[-3000:]}"
    return time.monotonic() - began


@pytest.mark.timeout(900)
def test_replacing_every_part_under_load_fails_no_request_and_wastes_no_attempt(own_stack: Stack):
    runner, next_runner = own_stack.runner("sd-mini"), own_stack.runner("sd-mini")
    gateway, consumer = own_stack.gateway(), own_stack.consumer(runner, next_runner)
    next_runner.kill()  # only its address is needed for now
    for part in (runner, consumer, gateway):
        ready(part)
    until(lambda: "sd-mini" in httpx.get(f"{gateway.url}/models").text, what="the model known")
    seconds: dict[str, float] = {}
    with RestartLoad(Balancer(gateway.url)).running() as load:
        until(lambda: load.requests["get_image"] >= 3, 300, "the load under way")

        ready(next_runner.start())
        until(lambda: f"runner {next_runner.url} serves" in consumer.log.read_text(), what="the new runner known")
        seconds["runner"] = end(runner)

        next_consumer = ready(own_stack.consumer(runner, next_runner))
        seconds["consumer"] = end(consumer)

        next_gateway = ready(own_stack.gateway())
        load.balancer.urls.append(next_gateway.url)
        seconds["gateway"] = end(gateway)
        load.balancer.urls.remove(gateway.url)

        pictures = load.requests["get_image"]
        until(lambda: load.requests["get_image"] >= pictures + 3, 300, "the load going on")
    assert load.failures == []
    ended = Counter(_ended(next_gateway, task_id) for task_id in load.tasks)
    assert ended == {"completed": len(load.tasks)}
    all_events = events(own_stack)
    started = Counter((event["task_id"], event["attempt"]) for event in all_events if event["kind"] == "started")
    assert started == Counter(itertools.product(load.tasks, [1]))
    assert not [event for event in all_events if event["kind"] == "released"]
    assert next_consumer.died() is None
    print({**load.requests}, {name: round(duration, 2) for name, duration in seconds.items()})


def _ended(gateway: Process, task_id: str) -> str:
    def ended() -> str | None:
        status = str(httpx.get(f"{gateway.url}/check_status/{task_id}", timeout=30).json()["status"])
        return None if status in ("queued", "running") else status

    return str(until(ended, 120, f"{task_id} ended"))
