"""The broker, the store and the runners go away and come back, under load, and more comes than can be done.

`OUTAGE_SECONDS=60 python -m pytest tests/e2e/test_outages.py -s` makes the outages a minute long and says what was seen.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from infra.local.servers import S3, Kafka
from tests.conftest import free_ports
from tests.support.stack import Api, Part, Stack, until
from tools.bench.stub_runner import MODEL

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))
MAX_UNSTORED = 4
MAX_RUNNING = 4 + 4
"""What the runner has room for, and as many more handed over just before those end."""
OF_USER = 400
LONGEST_ANSWER = 5.0
"""Seconds within which a submit is answered, the queue away or not."""
LONGEST_RETURN = 5.0
"""Seconds after which work goes on again."""
SPARE = 25.0
"""Seconds of patience on top, for a machine that has more to do."""

pytestmark = pytest.mark.timeout(int(3 * SECONDS + 400))


@dataclass
class Server:
    """The broker or the store."""

    server: Kafka | S3
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, on what it had stored, and wait until it answers."""
        command = self.server.command()
        with (self.server.folder / "log.txt").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        until(self.server.ready, 90, f"{self.server} answers")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of it."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(10)


@dataclass
class House:
    """All of the service, on a broker and a store of its own."""

    broker: Server
    store: Server
    runner: Part
    consumer: Part
    gateway: Part

    @property
    def api(self) -> Api:
        """What a person does."""
        return Api(self.gateway.url)

    def take_away(self, what: str, how: str) -> None:
        """Kill it or freeze it."""
        number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
        getattr(self, what).signal(number)

    def bring_back(self, what: str, how: str) -> None:
        """It is there again, and answers."""
        part: Server | Part = getattr(self, what)
        if how == "frozen":
            part.signal(signal.SIGCONT)
            return
        part.start()
        if isinstance(part, Part):
            part.ready()

    @property
    def unstored(self) -> int:
        """Finished tasks that wait for the store."""
        page = httpx.get(f"{self.consumer.url}/metrics", timeout=30).text
        found = re.search(r"^ai_image_gen_unstored\S* (\S+)$", page, re.MULTILINE)
        assert found, page
        return int(float(found[1]))

    def resident(self, part: Part) -> float:
        """MiB of memory."""
        assert part.process is not None
        family = [psutil.Process(part.process.pid), *psutil.Process(part.process.pid).children(recursive=True)]
        return float(sum(one.memory_info().rss for one in family)) / 2**20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The service, ready."""
    folder = tmp_path_factory.mktemp("outages")
    ports = free_ports(3)
    broker = Server(Kafka(folder / "kafka", ports[0], ports[1]))
    store_server = S3(folder / "s3", ports[2])
    store = Server(store_server)
    stack = Stack(f"127.0.0.1:{ports[0]}", store_server.env, folder, folder / "stack")
    stack.settings |= {
        "MAX_UNSTORED": str(MAX_UNSTORED),
        "MAX_QUEUED_TASKS_PER_USER": str(OF_USER),
        "CLIENT_TIMEOUT": "5",
        "S3_TIMEOUT": "2",
    }
    stack.folder.mkdir()
    try:
        broker.start()
        store.start()
        stack.provision()
        with stack.running():
            port = free_ports(1)[0]
            command = [sys.executable, "-m", "tools.bench.stub_runner", str(port)]
            runner = stack._add("runner", command, stack.env(), port)
            made = House(broker, store, runner, stack.consumer(runner), stack.gateway())
            for part in (made.runner, made.consumer, made.gateway):
                part.ready()
            until(lambda: MODEL in made.api.model_names(), what="the model known")
            yield made
    finally:
        for server in (broker, store):
            with contextlib.suppress(ProcessLookupError):
                server.signal(signal.SIGKILL)


@dataclass
class Load:
    """Somebody submits without pause, somebody asks without pause how one task stands."""

    api: Api
    known: str
    submits: list[tuple[float, float, httpx.Response]] = field(default_factory=list)
    """When it was answered, after how long, what."""
    looks: list[tuple[float, int]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def going_on(self) -> Iterator["Load"]:
        """The load, for so long."""
        threads = [threading.Thread(target=self._submit), threading.Thread(target=self._look)]
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

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            began = time.monotonic()
            code = httpx.get(f"{self.api.url}/check_status/{self.known}", timeout=60).status_code
            self.looks.append((time.monotonic() - began, code))

    def accepted(self) -> list[str]:
        """The ids of the tasks that were."""
        return [str(answer.json()["task_id"]) for _, _, answer in list(self.submits) if answer.status_code == 202]

    def accepted_after(self, moment: float) -> list[str]:
        """Those accepted since then."""
        late = [answer for at, _, answer in list(self.submits) if at > moment and answer.status_code == 202]
        return [str(answer.json()["task_id"]) for answer in late]


class Lines:
    """What the parts' logs say from now on, tasks' lives left out."""

    def __init__(self, *parts: Part) -> None:
        """From here on."""
        self._from = {part.name: part.log.stat().st_size for part in parts}

    def of(self, part: Part) -> list[str]:
        """The lines of one part."""
        with part.log.open("rb") as log:
            log.seek(self._from[part.name])
            return [line for line in log.read().decode(errors="replace").splitlines() if "task_id=" not in line]


@pytest.mark.parametrize(
    ("what", "how"),
    [("broker", "killed"), ("broker", "frozen"), ("store", "killed"), ("store", "frozen"), ("runner", "killed")],
)
def test_an_outage_loses_nothing_is_told_at_once_and_said_once(house: House, what: str, how: str) -> None:
    api = house.api
    known = api.submit(MODEL)
    api.reached(known, "completed", seconds=60 + SPARE)
    lines = Lines(house.consumer, house.gateway)
    memory = house.resident(house.consumer)
    unstored = 0
    with Load(api, known).going_on() as load:
        until(lambda: len(load.accepted()) >= 3, 30 + SPARE, "the load goes on")
        gone = time.monotonic()
        house.take_away(what, how)
        while time.monotonic() - gone < SECONDS:
            time.sleep(0.2)
            unstored = max(unstored, house.unstored)
        full = house.resident(house.consumer)
        unfinished = [task for task in load.accepted() if api.status(task)["status"] != "completed"]
        house.bring_back(what, how)
        back = time.monotonic()
        first = until(lambda: load.accepted_after(back), LONGEST_RETURN + SPARE, "a submit is accepted")[0]
        taken_again = time.monotonic() - back
        until(
            lambda: any(api.status(task)["status"] == "completed" for task in [*unfinished[:5], first]),
            LONGEST_RETURN + SPARE,
            "a task ends",
        )
        works_again = time.monotonic() - back
        api.reached(first, "completed", seconds=120 + SPARE)
    tasks = load.accepted()
    ends = Counter(api.reached(task, "completed", "failed", seconds=120 + SPARE)["status"] for task in tasks)
    during = [(seconds, answer) for at, seconds, answer in load.submits if gone < at < back]
    refused = [(seconds, answer) for seconds, answer in during if answer.status_code != 202]
    slowest = max((seconds for seconds, _ in during), default=0.0)
    said = {part.name: lines.of(part) for part in (house.consumer, house.gateway)}
    print(
        f"\n{what} {how} for {back - gone:.1f} s: {len(during)} submits, {len(refused)} refused, slowest answer "
        f"{slowest:.2f} s, median of refusals {sorted(s for s, _ in refused)[len(refused) // 2] if refused else 0:.3f} s; "
        f"slowest status {max(seconds for seconds, _ in load.looks):.2f} s; {len(tasks)} accepted, {dict(ends)}; "
        f"accepted again after {taken_again:.1f} s, a task ended after {works_again:.1f} s; at most {unstored} unstored; "
        f"consumer {memory:.0f} -> {full:.0f} MiB; lines: { {name: len(one) for name, one in said.items()} }"
    )
    for name, one in said.items():
        print(*(f"  {name}: {line}" for line in one), sep="\n")
    assert ends == {"completed": len(tasks)}
    assert all((answer.status_code, "retry-after" in answer.headers) == (503, True) for _, answer in refused)
    assert bool(refused) == (what == "broker")
    assert slowest < LONGEST_ANSWER + SPARE
    assert {code for _, code in load.looks} == {200}
    assert unstored <= MAX_UNSTORED + MAX_RUNNING
    for name, one in said.items():
        told = " ".join(one)
        away = told.count(" away") + told.count(" unavailable:")
        again = told.count(" available again") + told.count(" serves ")
        assert away == again <= 1, one
        # The other one may have had nothing to ask of what was away.
        assert away == 1 or name != ("gateway" if what == "broker" else "consumer"), one
    for name, one in said.items():
        counted = Counter(re.sub(r"^\S+ \S+ ", "", line).partition(":")[0] for line in one)
        assert max(counted.values(), default=0) <= 2, (name, one)
        assert len(one) <= 8, (name, one)


def test_a_flood_is_stopped_at_the_limit_and_neither_it_nor_silent_clients_hold_up_another_user(house: House) -> None:
    url = house.api.url
    port = int(url.rsplit(":", 1)[1])
    house.runner.signal(signal.SIGSTOP)
    with contextlib.ExitStack() as open_ones:
        silent = [open_ones.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(200)]
        for one in silent[::2]:
            one.sendall(b"POST /generate_image HTTP/1.1\r\nContent-Le")
        with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=40)) as client:

            def submit(user: str) -> httpx.Response:
                return client.post("/generate_image", json={"model_name": MODEL, "prompt": "x", "user_id": user})

            with ThreadPoolExecutor(40) as pool:
                answers = list(pool.map(submit, ["flood"] * (OF_USER + 200)))
            flood = [str(answer.json()["task_id"]) for answer in answers if answer.status_code == 202]
            refused = [answer for answer in answers if answer.status_code != 202]
            assert {(one.status_code, one.json()["code"]) for one in refused} == {(429, "user_queue_full")}
            assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
            assert OF_USER <= len(flood) <= OF_USER + MAX_RUNNING
            other = submit("other").json()
            assert other["position"] <= 1
        for one in silent:
            one.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
    house.runner.signal(signal.SIGCONT)
    for task in [*flood, other["task_id"]]:
        house.api.reached(task, "completed", seconds=60 + SPARE)
    came = httpx.get(f"{house.runner.url}/times").json()
    order = sorted([*flood, other["task_id"]], key=lambda task: came[task])
    assert order.index(other["task_id"]) <= MAX_RUNNING
