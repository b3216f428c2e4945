"""A part ends together with every process that it started, even right after its start."""

import signal
import time
from pathlib import Path

import psutil
import pytest

from infra.local.process import Part, PartFailed, Process, until

LEAVES_ITS_SESSION = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); time.sleep(60)"
)


def process(tmp_path: Path, code: str, **more: object) -> Process:
    return Process(Part("p", ("python", "-c", code), **more), tmp_path / "p.txt")  # type: ignore[arg-type]


def test_a_part_killed_right_after_its_start_leaves_no_process(tmp_path: Path):
    part = process(tmp_path, LEAVES_ITS_SESSION)
    for _ in range(30):
        part.start()
        part.kill()
        assert part.processes() == set()


def test_a_child_in_a_session_of_its_own_is_killed_with_its_part(tmp_path: Path):
    part = process(tmp_path, LEAVES_ITS_SESSION).start()
    until(lambda: len(part.processes()) == 2, what="both there")
    part.kill()
    assert part.processes() == set()


def test_a_part_that_ends_by_itself_is_noticed_and_one_that_was_killed_is_not(tmp_path: Path):
    part = process(tmp_path, "raise SystemExit(3)").start()
    assert until(part.died, what="it has died") == "with exit code 3"
    part.start()
    part.kill()
    assert part.died() is None


def test_a_part_whose_worker_died_is_noticed(tmp_path: Path):
    part = process(tmp_path, LEAVES_ITS_SESSION, by_worker=True).start()
    until(lambda: len(part.processes()) == 2 and not part.died(), what="the worker is there")
    (worker,) = (child for child in part.processes() if child.ppid() in {other.pid for other in part.processes()})
    worker.kill()
    assert until(part.died, what="the worker has died") == "with its worker process"
    part.kill()


def test_waiting_for_a_part_that_dies_raises_its_last_lines(tmp_path: Path):
    part = process(tmp_path, "import sys; print('no room on'); sys.exit('the device')", ready=lambda: False).start()
    with pytest.raises(
        PartFailed, match=r"p ended with exit code 1\. Its last output:\n    no room on\n    the device"
    ):
        part.wait_until_ready(30)


def test_terminate_returns_the_exit_code_once_every_process_has_ended(tmp_path: Path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); print(1, flush=True); "
    part = process(tmp_path, code + "time.sleep(60)").start()
    until(part.last_lines, what="it handles SIGTERM")
    assert part.terminate(30) == 4
    assert part.processes() == set()


def test_terminate_names_what_a_part_left_running(tmp_path: Path):
    part = process(tmp_path, LEAVES_ITS_SESSION).start()
    until(lambda: len(part.processes()) == 2, what="both there")
    with pytest.raises(PartFailed, match=r"p still runs .*time\.sleep\(60\).* after 0\.2 s"):
        part.terminate(0.2)
    part.kill()


def test_a_signal_reaches_every_process_of_a_part(tmp_path: Path):
    part = process(tmp_path, LEAVES_ITS_SESSION).start()
    until(lambda: len(part.processes()) == 2, what="both there")
    part.signal(signal.SIGSTOP)
    until(lambda: {each.status() for each in part.processes()} == {psutil.STATUS_STOPPED}, what="both stopped")
    began = time.monotonic()
    part.kill()
    assert time.monotonic() - began < 10


def test_the_secret_of_a_part_is_not_read_from_a_file_of_the_callers_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", "/of/the/caller")
    monkeypatch.setenv("AWS_SESSION_TOKEN_FILE", "/of/the/caller")
    given = Part("p", ("python",), {"AWS_SECRET_ACCESS_KEY": "of the part"}).environment("mark")
    assert given["AWS_SECRET_ACCESS_KEY"] == "of the part"
    assert "AWS_SECRET_ACCESS_KEY_FILE" not in given
    assert given["AWS_SESSION_TOKEN_FILE"] == "/of/the/caller"
