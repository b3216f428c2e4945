"""The handler as AWS Lambda, a Knative KafkaSource and a share group call it, on the real log, store and runner."""

import asyncio
import json
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Message, Producer

from adapters.kafka_log import KafkaLog
from adapters.kafka_record import to_record
from adapters.s3_store import S3Store
from infra.local.parts import python
from infra.local.ports import free_ports
from infra.local.process import Part
from tasks.events import CancelRequested, Event, Outcome, Released, Started, parse_event
from tasks.log import Record
from tests.support.platform_events import cloud_event, kafka_event
from tests.support.stack import ROOT, Process, Stack

SHORT, LONG = {"steps": 3}, {"steps": 150, "num_images": 4}
NONE_LEFT: dict[str, Any] = {"batchItemFailures": []}

CALL = """
import json, sys
from functions.consume.lambda_ import handler
class Context:
    def __init__(self, seconds): self.seconds = seconds
    def get_remaining_time_in_millis(self): return 1000 * self.seconds
event = json.load(sys.stdin)
for seconds in sys.argv[1:]: print("answer", json.dumps(handler(event, Context(float(seconds)))))
"""
"""A warm process of the function: one call with the event for each argument, the seconds that the platform allows."""


@pytest.fixture(scope="module")
def pushed(stack: Stack, sd_runner: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A namespace that no worker reads, with the same runner."""
    sd_runner.wait_until_ready()
    folder = tmp_path_factory.mktemp("pushed")
    pushed = Stack(stack.bootstrap, stack.s3_env, stack.models, folder)
    pushed.settings = {
        **stack.settings,
        "RUNNER_URLS": sd_runner.url,
        "LOG_DIR": "-",
        "CONSUMER_PORT": str(free_ports(1)[0]),
    }
    pushed.provision()
    with pushed.running():
        yield pushed


@pytest.fixture(scope="module")
def knative(pushed: Stack) -> Process:
    """The process that a KafkaSource calls."""
    port = int(pushed.settings["CONSUMER_PORT"])
    command = ("-m", "functions.consume.knative")
    return pushed.start(python("knative", port, command, pushed.env())).wait_until_ready()


class Lane:
    """The lane as a client of the service uses it, and what became of a task."""

    def __init__(self, pushed: Stack) -> None:
        self.settings = pushed.read_settings()
        self.log = KafkaLog(self.settings)
        self.store = S3Store(self.settings)

    def submit(self, params: dict[str, int]) -> tuple[str, Record]:
        """Append a task as any Kafka client may, and return its id and its record as the broker keeps it."""
        task_id = uuid.uuid4().hex
        body = {"task_id": task_id, "model_name": "sd-mini", "prompt": "a red circle", "image_params": params}
        lane, written = self.settings.lane_names[0], list[Message]()
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        producer.produce(
            lane,
            json.dumps(body).encode(),
            b"sd-mini",
            headers={"content-type": b"application/json"},
            on_delivery=lambda error, message: written.append(message),
        )
        assert producer.flush(10) == 0
        return task_id, to_record(written[0], {lane: "task"})

    async def cancel(self, task_id: str, record: Record) -> None:
        """Ask for a cancel as the gateway does."""
        await self.log.append_event(CancelRequested(task_id=task_id, at=0), record.place.partition)

    async def event(self, kind: type[Event], task_id: str) -> Event:
        """Wait until the log has an event of this kind of the task."""
        async with asyncio.timeout(60), aclosing(self.log.read_events(dict.fromkeys(range(4), 0))) as batches:
            async for batch in batches:
                for event in (parse_event(record.value) for record in batch.records):
                    if isinstance(event, kind) and event.task_id == task_id:
                        return event
        raise AssertionError("the log ended")

    async def ended_as(self, task_id: str) -> tuple[str, int]:
        """The status of the stored outcome, and how many attempts counted."""
        outcome = await self.store.get_outcome(task_id)
        assert outcome is not None
        return outcome.status, outcome.tries


@pytest.fixture
async def lane(pushed: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lane]:
    """The lane of the namespace."""
    for name, value in pushed.env().items():
        monkeypatch.setenv(name, value)
    lane = Lane(pushed)
    yield lane
    await lane.log.close()
    lane.store.close()


@dataclass
class Function:
    """The Lambda function: in a plain Python process, or as its package in the runtime interface emulator."""

    pushed: Stack
    emulator: Path | None

    @asynccontextmanager
    async def called(self, event: dict[str, Any], *seconds: float) -> AsyncIterator["asyncio.Future[list[Any]]"]:
        """One call with the event for each of `seconds`, the time that the platform allows; the answers."""
        calls = self._emulated(event, seconds) if self.emulator else self._plain(event, seconds)
        answers = asyncio.ensure_future(calls)
        try:
            yield answers
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)

    async def _plain(self, event: dict[str, Any], seconds: Sequence[float]) -> list[Any]:
        command = (sys.executable, "-c", CALL, *map(str, seconds))
        async with self._process(*command, cwd=ROOT, env=self.pushed.env(), stdin=PIPE, stdout=PIPE) as process:
            output, _ = await process.communicate(json.dumps(event).encode())
            assert process.returncode == 0, output.decode()
        lines = output.decode().splitlines()
        return [json.loads(line.removeprefix("answer")) for line in lines if line.startswith("answer")]

    async def _emulated(self, event: dict[str, Any], seconds: Sequence[float]) -> list[Any]:
        """The time is set when the emulator starts: calls with the same time in a row have one warm process."""
        return [
            answer for time, group in groupby(seconds) for answer in await self._emulate(event, time, len([*group]))
        ]

    async def _emulate(self, event: dict[str, Any], seconds: float, times: int) -> list[Any]:
        assert self.emulator is not None
        port, api_port = free_ports(2)
        package, wheels = self.emulator / "function", self.emulator / "emulator"
        command = (
            *(wheels / "samcli/local/rapid/aws-lambda-rie-x86_64", "--log-level", "warn"),
            *("--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
            *("--runtime-api-address", f"127.0.0.1:{api_port}"),
            # -S: without the packages of this environment, so that the function has only what its package holds.
            *(sys.executable, "-S", "-m", "awslambdaric", "functions.consume.lambda_.handler"),
        )
        env = self.pushed.env(
            PYTHONPATH=f"{package}:{wheels}", AWS_LAMBDA_FUNCTION_TIMEOUT=f"{seconds:.0f}", AWS_LAMBDA_FUNCTION_NAME="f"
        )
        url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        async with (
            self._process(*command, cwd=package, env=env),
            httpx.AsyncClient(timeout=seconds + 30, transport=httpx.AsyncHTTPTransport(retries=10)) as platform,
        ):
            return [(await platform.post(url, json=event)).json() for _ in range(times)]

    @asynccontextmanager
    async def _process(self, *command: Any, **more: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(*map(str, command), start_new_session=True, **more)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@pytest.fixture(params=["plain", "emulated"])
def function(request: pytest.FixtureRequest, pushed: Stack) -> Function:
    """The Lambda function. `make lambda-check` builds what the emulator runs and names the folder."""
    folder = os.environ.get("LAMBDA_EMULATOR")
    if request.param == "plain":
        return Function(pushed, None)
    if folder is None:
        pytest.skip("run by make lambda-check, which installs the emulator")
    return Function(pushed, Path(folder).resolve())


async def test_a_knative_event_is_answered_once_its_picture_is_stored(knative: Process, lane: Lane):
    task_id, record = lane.submit(SHORT)
    async with httpx.AsyncClient(timeout=60) as source:
        for _ in range(2):
            answer = await source.post(knative.url, content=record.value, headers=cloud_event(record))
            assert answer.status_code == 204, answer.text
    assert await lane.ended_as(task_id) == ("completed", 1)


async def test_a_cancel_ends_a_knative_task_that_runs_and_one_that_comes_later(knative: Process, lane: Lane):
    running, record = lane.submit(LONG)
    later, later_record = lane.submit(LONG)
    await lane.cancel(later, later_record)
    async with httpx.AsyncClient(timeout=60) as source:
        sent = asyncio.ensure_future(source.post(knative.url, content=record.value, headers=cloud_event(record)))
        await lane.event(Started, running)
        await lane.cancel(running, record)
        assert (await sent).status_code == 204
        assert await lane.ended_as(running) == ("canceled", 1)
        answer = await source.post(knative.url, content=later_record.value, headers=cloud_event(later_record))
        assert answer.status_code == 204
    assert await lane.ended_as(later) == ("canceled", 0)


async def test_a_knative_process_that_ends_gives_its_task_back(pushed: Stack, lane: Lane):
    (port,) = free_ports(1)
    command = ("-m", "functions.consume.knative")
    env = pushed.env(CONSUMER_PORT=str(port), CONSUMER_GRACE="0.1")
    process = pushed.start(python("knative", port, command, env)).wait_until_ready()
    task_id, record = lane.submit(LONG)
    async with httpx.AsyncClient(timeout=60) as source:
        sent = asyncio.ensure_future(source.post(process.url, content=record.value, headers=cloud_event(record)))
        await lane.event(Started, task_id)
        assert await asyncio.to_thread(process.terminate, 20) == 0
        await asyncio.gather(sent, return_exceptions=True)
    released = await lane.event(Released, task_id)
    assert isinstance(released, Released)
    assert not released.counts
    assert await lane.store.get_outcome(task_id) is None


@pytest.mark.parametrize("source", ["SelfManagedKafka", "aws:kafka"])
async def test_a_lambda_call_ends_its_tasks_and_a_warm_second_call_runs_nothing_twice(
    function: Function, lane: Lane, source: str
):
    tasks = [lane.submit(SHORT) for _ in range(2)]
    event = kafka_event(*(record for _, record in tasks), source=source)
    async with function.called(event, 60, 60) as answers:
        assert await answers == [NONE_LEFT, NONE_LEFT]
    for task_id, _ in tasks:
        assert await lane.ended_as(task_id) == ("completed", 1)


async def test_a_cancel_ends_a_lambda_task_that_runs_and_one_that_comes_later(function: Function, lane: Lane):
    running, record = lane.submit(LONG)
    later, later_record = lane.submit(LONG)
    await lane.cancel(later, later_record)
    async with function.called(kafka_event(record, later_record), 120) as answers:
        await lane.event(Started, running)
        await lane.cancel(running, record)
        assert await answers == [NONE_LEFT]
    assert await lane.ended_as(running) == ("canceled", 1)
    assert await lane.ended_as(later) == ("canceled", 0)


async def test_a_lambda_call_that_runs_out_of_time_gives_its_task_back(function: Function, lane: Lane):
    _, done_record = lane.submit(SHORT)
    task_id, record = lane.submit(LONG)
    async with function.called(kafka_event(done_record), 60) as answers:
        assert await answers == [NONE_LEFT]
    async with function.called(kafka_event(done_record, record), 9, 120) as answers:
        first, second = await answers
    place = record.place
    identifier = {"partition": f"{place.topic}-{place.partition}", "offset": place.offset}
    assert first == {"batchItemFailures": [{"itemIdentifier": identifier}]}
    assert second == NONE_LEFT
    assert (await lane.ended_as(task_id))[0] == "completed"


async def test_a_share_group_ends_tasks_and_cancels_them(pushed: Stack, lane: Lane):
    command = ("python", "-m", "infra.share_group.worker")
    worker = pushed.start(Part("share-group", command, pushed.env()))
    task_id, record = lane.submit(SHORT)
    assert isinstance(await lane.event(Outcome, task_id), Outcome)
    assert await lane.ended_as(task_id) == ("completed", 1)
    canceled, record = lane.submit(LONG)
    await lane.event(Started, canceled)
    await lane.cancel(canceled, record)
    assert isinstance(await lane.event(Outcome, canceled), Outcome)
    assert await lane.ended_as(canceled) == ("canceled", 1)
    assert await asyncio.to_thread(worker.terminate, 20) == 0
