"""`make run` on a new machine: no model yet, one line when it is ready, no process left afterwards."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 240.0
STOP_SECONDS = 15.0
PORTS = ("GATEWAY_PORT", "CONSUMER_PORT", "KAFKA_PORT", "KAFKA_CONTROLLER_PORT", "S3_PORT", "FIRST_RUNNER_PORT")


class Run:
    """`python -m infra.local` on free ports, with its own data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        # The runners' come last, and there are two.
        self.ports = dict(zip(PORTS, free_ports(len(PORTS) + 1)[:-1], strict=True))
        env = {
            **os.environ,
            **{name: str(number) for name, number in self.ports.items()},
            "LOCAL_DIR": str(folder / "data"),
            "LOG_DIR": str(folder / "logs"),
            "MODEL_CACHE_DIR": str(folder / "models"),
        }
        (folder / "models").mkdir()
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.local"], cwd=ROOT, env=env, stdout=out, stderr=out
            )

    def ready_line(self) -> str:
        match = re.search(r"^run +\| (ready after .*)$", self.log.read_text(), re.MULTILINE)
        return match[1] if match else ""

    def processes(self) -> list[str]:
        """The command of every process that uses the data folder, including processes that left the session."""
        commands = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LOCAL_DIR") == str(self.folder / "data"):
                    commands.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue  # ended meanwhile
        return commands

    def until(self, holds: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not {what} within {seconds} s:\n{self.log.read_text()[-5000:]}"
            time.sleep(0.1)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(STOP_SECONDS * 2)


def picture(address: str, model: str) -> bytes:
    request = urllib.request.Request(
        f"{address}/generate_image",
        data=f'{{"model_name": "{model}", "prompt": "a red circle", "image_params": {{"steps": 2}}}}'.encode(),
        headers={"Content-Type": "application/json", "Accept": "image/*", "Prefer": "wait=60"},
    )
    with urllib.request.urlopen(request, timeout=90) as answer:
        return bytes(answer.read())


def open_to_others(folder: Path) -> list[Path]:
    """The folders and files that another user of the machine can reach and read."""
    if not folder.stat().st_mode & 0o077:
        return [
            path
            for path in folder.iterdir()
            if path.stat().st_mode & 0o077 or (path.is_dir() and path.name != "data" and open_to_others(path))
        ]
    return [folder]


@pytest.mark.timeout(START_SECONDS + 120)
def test_make_run_makes_pictures_and_leaves_no_process_behind(run: Run) -> None:
    run.until(lambda: run.ready_line() or run.process.poll() is not None, START_SECONDS, "ready")
    line = run.ready_line()
    address = f"http://localhost:{run.ports['GATEWAY_PORT']}"
    assert f"API {address}, documentation {address}/docs" in line
    assert "flux-1-dev is answered by flux-mini; stable-diffusion-v1-5 is answered by sd-mini" in line
    assert f"curl {address}/generate_image" in line

    assert picture(address, "flux-1-dev").startswith(b"\x89PNG")
    assert picture(address, "sd-mini").startswith(b"\x89PNG")

    assert open_to_others(run.folder / "data") == []
    assert open_to_others(run.folder / "logs") == []

    run.process.terminate()
    run.until(lambda: run.process.poll() is not None, STOP_SECONDS, "stopped")
    assert run.process.returncode == 0
    assert run.processes() == []
