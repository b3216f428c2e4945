"""The checks and decisions of `make run` before it starts anything."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bentos.build import model_folders
from infra.local import __main__ as make_run
from infra.local.ports import PORTS, ports
from infra.local.processes import miniatures_to_build, stand_ins_for
from infra.local.servers import HOST

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use a new folder and unused ports: `make run` may run beside the tests."""
    monkeypatch.chdir(tmp_path)
    for name in PORTS:
        monkeypatch.setenv(name, "0")


def test_a_free_machine_is_fine() -> None:
    make_run.check_machine(runners=1)


def test_a_taken_port_is_one_sentence_with_the_port_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setenv("S3_PORT", str(number))
        with pytest.raises(SystemExit, match=rf"port {number} for S3 \(S3_PORT\) is already taken"):
            make_run.check_machine(runners=0)


def test_two_parts_with_one_port_are_one_sentence_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "18123")
    monkeypatch.setenv("CONSUMER_PORT", "18123")
    with pytest.raises(SystemExit, match=r"\(GATEWAY_PORT\) and .* \(CONSUMER_PORT\) cannot both have port 18123"):
        make_run.check_machine(runners=0)


def test_a_disk_without_room_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 1024**2))
    with pytest.raises(SystemExit, match=r"the disk has 0\.3 GiB free; at least 2 GiB are needed"):
        make_run.check_machine(runners=0)


def test_every_runner_has_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_RUNNER_PORT", "3001")
    assert [number for what, number in ports(3).items() if "runner" in what] == [3001, 3002, 3003]


def test_a_folder_with_an_index_is_a_model(tmp_path: Path) -> None:
    for name in ("sd-mini", "train"):
        (tmp_path / name).mkdir()
    (tmp_path / "sd-mini" / "model_index.json").write_text("{}")
    assert model_folders(tmp_path) == ["sd-mini"]


@pytest.mark.parametrize(
    ("models", "build", "aliases"),
    [
        ([], ["flux-mini", "sd-mini"], {}),
        (["flux-mini", "sd-mini"], [], {"flux-1-dev": "flux-mini", "stable-diffusion-v1-5": "sd-mini"}),
        (["flux-1-dev"], ["sd-mini"], {}),
        (["flux-1-dev", "sd-mini"], [], {"stable-diffusion-v1-5": "sd-mini"}),
        (["flux-1-dev", "stable-diffusion-v1-5"], [], {}),
    ],
)
def test_a_miniature_stands_in_only_for_a_model_that_is_missing(
    models: list[str], build: list[str], aliases: dict[str, str]
) -> None:
    assert miniatures_to_build(models) == build
    assert stand_ins_for(models) == aliases


@pytest.mark.parametrize("value", ["http", "-1", "70000", "80.5"])
def test_an_invalid_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GATEWAY_PORT", value)
    with pytest.raises(SystemExit, match=rf"GATEWAY_PORT must be a port, a number up to 65535, not '{value}'"):
        make_run.check_machine(runners=0)


def test_a_closed_reader_of_the_log_ends_the_run_as_a_closed_terminal_does() -> None:
    code = (
        "import signal, sys\n"
        "from infra.local.__main__ import say\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('hung up', file=sys.stderr))\n"
        "input()\n"
        "say('run', 'stopping')\n"
        "say('run', 'stopped')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, output = process.communicate(b"\n", timeout=30)
    assert (process.returncode, output) == (0, b"hung up\n")
