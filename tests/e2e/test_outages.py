"""Outages of the broker, the store and a runner under load, and a flood of tasks.

`OUTAGE_SECONDS=60 python -m pytest tests/e2e/test_outages.py -s` makes the outages a minute long and prints the figures.
"""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from infra.local.ports import free_ports
from infra.local.servers import S3, Kafka
from tests.support.stack import Api, Process, Stack, until
from tools.bench.stub_runner import MODEL

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))
MAX_UNSTORED = 4
MAX_RUNNING = 4 + 4
"""The room of the runner, and as many tasks again that are sent just before those end."""
QUEUED_PER_USER = 400
LONGEST_ANSWER = 5.0
"""Seconds within which a submit is answered, with or without an outage."""
LONGEST_RETURN = 5.0
"""Seconds after an outage within which work continues."""
SPARE = 25.0
"""Seconds added to every limit, for a busy machine."""

pytestmark = pytest.mark.timeout(int(3 * SECONDS + 400))


@dataclass
class ServiceInTrouble:
    """The whole service with its own broker and its own store."""

    broker: Process
    store: Process
    runner: Process
    consumer: Process
    gateway: Process

    @property
    def api(self) -> Api:
        """A client of the service."""
        return Api(self.gateway.url)

    def begin_outage(self, part_name: str, kind: str) -> None:
        """Kill or freeze the part."""
        part: Process = getattr(self, part_name)
        if kind == "killed":
            part.kill()
        else:
            part.signal(signal.SIGSTOP)

    def end_outage(self, part_name: str, kind: str) -> None:
        """Start or continue the part and wait until it answers."""
        part: Process = getattr(self, part_name)
        if kind == "frozen":
            part.signal(signal.SIGCONT)
            return
        part.start().wait_until_ready()

    @property
    def unstored(self) -> int:
        """The number of finished tasks that wait for the store."""
        page = httpx.get(f"{self.consumer.url}/metrics", timeout=30).text
        match = re.search(r"^ai_image_gen_unstored\S* (\S+)$", page, re.MULTILINE)
        assert match, page
        return int(float(match[1]))

    def resident(self, part: Process) -> float:
        """The resident memory of the part in MiB."""
        return float(sum(process.memory_info().rss for process in part.processes())) / 2**20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceInTrouble]:
    """The service, once every part is ready."""
    folder = tmp_path_factory.mktemp("outages")
    ports = free_ports(3)
    kafka, s3 = Kafka(folder / "kafka", ports[0], ports[1]), S3(folder / "s3", ports[2])
    broker = Process(kafka.part(), folder / "kafka" / "log.txt")
    store = Process(s3.part(), folder / "s3" / "log.txt")
    stack = Stack(kafka.bootstrap, s3.env, folder, folder / "stack")
    stack.settings |= {
        "MAX_UNSTORED": str(MAX_UNSTORED),
        "MAX_QUEUED_TASKS_PER_USER": str(QUEUED_PER_USER),
        "CLIENT_TIMEOUT": "5",
        "S3_TIMEOUT": "2",
    }
    stack.folder.mkdir()
    try:
        for server in (broker, store):
            server.start().wait_until_ready()
        stack.provision()
        with stack.running():
            runner = stack.python("runner", "-m", "tools.bench.stub_runner")
            service = ServiceInTrouble(broker, store, runner, stack.consumer(runner), stack.gateway())
            for part in (service.runner, service.consumer, service.gateway):
                part.wait_until_ready()
            until(lambda: MODEL in service.api.model_names(), what="the model known")
            yield service
    finally:
        for server in (broker, store):
            server.kill()


@dataclass
class SteadyLoad:
    """One thread submits tasks all the time, another reads the status of one known task all the time."""

    api: Api
    known_task: str
    submits: list[tuple[float, float, httpx.Response]] = field(default_factory=list)
    """Of each submit: when it was answered, the seconds it took, and the answer."""
    status_reads: list[tuple[float, int]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator["SteadyLoad"]:
        """Run the load until the end of the block."""
        threads = [threading.Thread(target=self._submit), threading.Thread(target=self._read_status)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _submit(self) -> None:
        while not self._stop.wait(0.4):
            began = time.monotonic()
            answer = self.api.post({"model_name": MODEL, "prompt": "a red ring"})
            self.submits.append((time.monotonic(), time.monotonic() - began, answer))

    def _read_status(self) -> None:
        while not self._stop.wait(0.2):
            began = time.monotonic()
            code = httpx.get(f"{self.api.url}/check_status/{self.known_task}", timeout=60).status_code
            self.status_reads.append((time.monotonic() - began, code))

    def accepted(self) -> list[str]:
        """The ids of the accepted tasks."""
        return [str(answer.json()["task_id"]) for _, _, answer in list(self.submits) if answer.status_code == 202]

    def accepted_after(self, moment: float) -> list[str]:
        """The ids of the tasks accepted after this moment."""
        late = [answer for at, _, answer in list(self.submits) if at > moment and answer.status_code == 202]
        return [str(answer.json()["task_id"]) for answer in late]


class NewLogLines:
    """The lines that parts log from now on, without the lines about single tasks."""

    def __init__(self, *parts: Process) -> None:
        """Remember where each log ends now."""
        self._from = {part.name: part.log.stat().st_size for part in parts}

    def of(self, part: Process) -> list[str]:
        """The new lines of one part."""
        with part.log.open("rb") as log:
            log.seek(self._from[part.name])
            return [line for line in log.read().decode(errors="replace").splitlines() if "task_id=" not in line]


@pytest.mark.parametrize(
    ("part_name", "kind"),
    [("broker", "killed"), ("broker", "frozen"), ("store", "killed"), ("store", "frozen"), ("runner", "killed")],
)
def test_an_outage_loses_no_task_is_answered_at_once_and_logged_once(
    service: ServiceInTrouble, part_name: str, kind: str
) -> None:
    api = service.api
    known_task = api.submit(MODEL)
    api.reached(known_task, "completed", seconds=60 + SPARE)
    lines = NewLogLines(service.consumer, service.gateway)
    memory = service.resident(service.consumer)
    unstored = 0
    with SteadyLoad(api, known_task).running() as load:
        until(lambda: len(load.accepted()) >= 3, 30 + SPARE, "the load is under way")
        outage_began = time.monotonic()
        service.begin_outage(part_name, kind)
        while time.monotonic() - outage_began < SECONDS:
            time.sleep(0.2)
            unstored = max(unstored, service.unstored)
        full = service.resident(service.consumer)
        unfinished = [task for task in load.accepted() if api.status(task)["status"] != "completed"]
        service.end_outage(part_name, kind)
        outage_ended = time.monotonic()
        first = until(lambda: load.accepted_after(outage_ended), LONGEST_RETURN + SPARE, "a submit is accepted")[0]
        accepted_again_after = time.monotonic() - outage_ended
        until(
            lambda: any(api.status(task)["status"] == "completed" for task in [*unfinished[:5], first]),
            LONGEST_RETURN + SPARE,
            "a task ends",
        )
        ended_again_after = time.monotonic() - outage_ended
        api.reached(first, "completed", seconds=120 + SPARE)
    tasks = load.accepted()
    ends = Counter(api.reached(task, "completed", "failed", seconds=120 + SPARE)["status"] for task in tasks)
    during = [(seconds, answer) for at, seconds, answer in load.submits if outage_began < at < outage_ended]
    refused = [(seconds, answer) for seconds, answer in during if answer.status_code != 202]
    slowest = max((seconds for seconds, _ in during), default=0.0)
    new_lines = {part.name: lines.of(part) for part in (service.consumer, service.gateway)}
    print(
        f"\n{part_name} {kind} for {outage_ended - outage_began:.1f} s: {len(during)} submits, {len(refused)} refused, slowest answer "
        f"{slowest:.2f} s, median of refusals {sorted(s for s, _ in refused)[len(refused) // 2] if refused else 0:.3f} s; "
        f"slowest status {max(seconds for seconds, _ in load.status_reads):.2f} s; {len(tasks)} accepted, {dict(ends)}; "
        f"accepted again after {accepted_again_after:.1f} s, a task ended after {ended_again_after:.1f} s; at most {unstored} unstored; "
        f"consumer {memory:.0f} -> {full:.0f} MiB; lines: { {name: len(part_lines) for name, part_lines in new_lines.items()} }"
    )
    for name, part_lines in new_lines.items():
        print(*(f"  {name}: {line}" for line in part_lines), sep="\n")
    assert ends == {"completed": len(tasks)}
    assert all((answer.status_code, "retry-after" in answer.headers) == (503, True) for _, answer in refused)
    assert bool(refused) == (part_name == "broker")
    assert slowest < LONGEST_ANSWER + SPARE
    assert {code for _, code in load.status_reads} == {200}
    assert unstored <= MAX_UNSTORED + MAX_RUNNING
    for name, part_lines in new_lines.items():
        text = " ".join(part_lines)
        began = text.count(" away") + text.count(" unavailable:")
        ended = text.count(" available again") + text.count(" serves ")
        assert began == ended <= 1, part_lines
        # The other part may not have needed the one that was away.
        assert began == 1 or name != ("gateway" if part_name == "broker" else "consumer"), part_lines
    for name, part_lines in new_lines.items():
        counts = Counter(re.sub(r"^\S+ \S+ ", "", line).partition(":")[0] for line in part_lines)
        assert max(counts.values(), default=0) <= 2, (name, part_lines)
        assert len(part_lines) <= 8, (name, part_lines)


def test_neither_a_flood_nor_silent_clients_delay_another_user(service: ServiceInTrouble) -> None:
    url = service.api.url
    port = int(url.rsplit(":", 1)[1])
    service.runner.signal(signal.SIGSTOP)
    with contextlib.ExitStack() as connections:
        silent = [connections.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        for connection in silent[::2]:
            connection.sendall(b"POST /generate_image HTTP/1.1\r\nContent-Le")
        with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=40)) as client:

            def submit(user: str) -> httpx.Response:
                return client.post("/generate_image", json={"model_name": MODEL, "prompt": "x", "user_id": user})

            with ThreadPoolExecutor(40) as pool:
                answers = list(pool.map(submit, ["flood"] * (QUEUED_PER_USER + 200)))
            flood = [str(answer.json()["task_id"]) for answer in answers if answer.status_code == 202]
            refused = [answer for answer in answers if answer.status_code != 202]
            assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(429, "user_queue_full")}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert QUEUED_PER_USER <= len(flood) <= QUEUED_PER_USER + MAX_RUNNING
            other = submit("other").json()
            assert other["position"] <= 1
        for connection in silent:
            connection.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    service.runner.signal(signal.SIGCONT)
    for task in [*flood, other["task_id"]]:
        service.api.reached(task, "completed", seconds=60 + SPARE)
    arrivals = httpx.get(f"{service.runner.url}/times").json()
    order = sorted([*flood, other["task_id"]], key=lambda task: arrivals[task])
    assert order.index(other["task_id"]) <= MAX_RUNNING
