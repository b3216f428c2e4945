"""Parts start when what they need is ready, stop in order and leave no process behind."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest

from infra.local.process import Part, PartFailed
from infra.local.supervisor import Supervisor, startable

WAIT = "import time; time.sleep(60)"
SAY_BYE = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
    "print('hello', flush=True)\n"
    "time.sleep(60)"
)
# What BentoML does: the work is done by a grandchild in a session of its own.
WORKER_IN_ITS_OWN_SESSION = (
    "import subprocess, sys, time\n"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "open(sys.argv[1], 'w').write(str(worker.pid))\n"
)


class PartOutput:
    """The lines that the parts wrote, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def has(self, name: str, line: str) -> bool:
        return (name, line) in self.lines


@contextlib.asynccontextmanager
async def supervised(output: PartOutput, rows: Sequence[Sequence[Part]]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(rows, output)
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def start_and_watch(supervisor: Supervisor) -> None:
    await supervisor.start()
    await supervisor.watch()


def python(name: str, code: str, *args: str, output: PartOutput | None = None, after: tuple[str, ...] = ()) -> Part:
    """A part that runs until it is stopped. With `output` it is ready once it has written hello, otherwise at once."""
    ready = (lambda: output.has(name, "hello")) if output else (lambda: True)
    return Part(name, ("python", "-c", code, *args), after=after, ready=ready, grace=3)


def job(name: str, code: str, after: tuple[str, ...] = ()) -> Part:
    return Part(name, ("python", "-c", code), after=after)


def test_a_part_waits_for_what_it_needs() -> None:
    store, topics, gateway = job("store", ""), job("topics", "", ("store",)), job("gateway", "", ("topics", "store"))
    parts = [store, topics, gateway]
    assert startable(parts, started=set(), ready=set()) == [store]
    assert startable(parts, started={"store"}, ready=set()) == []
    assert startable(parts, started={"store"}, ready={"store"}) == [topics]
    assert startable(parts, started={"store", "topics"}, ready={"store", "topics"}) == [gateway]


async def test_parts_start_when_what_they_need_is_ready_and_stop_in_reverse_rows() -> None:
    output = PartOutput()
    rows = [
        [python("broker", SAY_BYE, output=output)],
        [job("topics", "print('made', end='')", after=("broker",))],
        [python("gateway", SAY_BYE, output=output, after=("topics",))],
    ]
    async with supervised(output, rows) as supervisor:
        seconds = await supervisor.start()
        assert list(seconds) == ["broker", "topics", "gateway"]
    lines = [line for line in output.lines if not line[1].startswith("ready")]
    assert lines == [
        ("broker", "hello"),
        ("topics", "made"),
        ("gateway", "hello"),
        ("gateway", "bye"),
        ("broker", "bye"),
    ]


async def test_a_part_that_dies_is_named_with_its_exit_code_and_its_last_lines() -> None:
    dies = "import sys; print('no room on', end=' '); print('the device'); sys.exit(7)"
    async with supervised(PartOutput(), [[python("store", dies)], [python("other", WAIT)]]) as supervisor:
        with pytest.raises(
            PartFailed, match=r"store ended with exit code 7\. Its last output:\n    no room on the device"
        ):
            await start_and_watch(supervisor)


async def test_a_job_that_fails_stops_the_start() -> None:
    parts = [
        [job("topics", "import sys; sys.exit('the broker is too old')")],
        [python("gateway", WAIT, after=("topics",))],
    ]
    async with supervised(PartOutput(), parts) as supervisor:
        with pytest.raises(PartFailed, match=r"topics ended with exit code 1[\s\S]+the broker is too old"):
            await supervisor.start()


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_worker_in_a_session_of_its_own_is_not_left_behind(end: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = WORKER_IN_ITS_OWN_SESSION + ("time.sleep(60)" if end == "stopped" else "import os; os.kill(os.getpid(), 9)")
    part = Part("runner", ("python", "-c", code, str(pid_file)), ready=pid_file.exists, grace=3)
    async with supervised(PartOutput(), [[part]]) as supervisor:
        with contextlib.suppress(PartFailed):
            await supervisor.start()
    worker = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker still runs"
        await asyncio.sleep(0.02)


async def test_a_service_whose_worker_died_is_reported_although_its_parent_lives() -> None:
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1.5); print(\"out of memory\")'])\n"
        "time.sleep(60)"
    )
    part = Part("runner", ("python", "-c", code), ready=lambda: True, grace=3, by_worker=True)
    async with supervised(PartOutput(), [[part]]) as supervisor:
        with pytest.raises(
            PartFailed, match=r"runner ended with its worker process\. Its last output:\n    out of memory"
        ):
            await start_and_watch(supervisor)


async def test_a_part_that_ignores_sigterm_is_killed_after_its_grace() -> None:
    stubborn = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('hello', flush=True)\ntime.sleep(60)"
    )
    output = PartOutput()
    part = Part("stubborn", ("python", "-c", stubborn), ready=lambda: output.has("stubborn", "hello"), grace=0.5)
    async with supervised(output, [[part]]) as supervisor:
        await supervisor.start()
        began = time.monotonic()
    assert time.monotonic() - began < 5


async def test_an_end_right_after_a_check_is_found_by_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    async with supervised(PartOutput(), [[job("topics", "")]]) as supervisor:

        def look_too_early() -> None:
            (pid,) = supervisor._watchers["topics"].processes
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                monkeypatch.undo()

        monkeypatch.setattr(supervisor._arbiter, "reap_processes", look_too_early)
        async with asyncio.timeout(10):
            assert list(await supervisor.start()) == ["topics"]
