"""RUNNERS: how many runners a model gets in `make run`, and which GPU each of them sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import Settings
from infra.local import __main__ as make_run
from infra.local import placement
from infra.local.placement import Placement, place, visible_gpus
from infra.local.ports import PORTS
from infra.local.process import Part
from infra.local.processes import process_table

MODELS = ["flux-1-dev", "sd-mini"]
GPUS = ["0", "1", "2", "3"]
ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture(autouse=True)
def _default_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PORTS, "CUDA_VISIBLE_DEVICES", "RUNNERS"):
        monkeypatch.delenv(name, raising=False)


def parts(home: Path, runners: list[Placement]) -> dict[str, Part]:
    rows = process_table(Settings(log_dir=home / "logs"), home, runners, ())
    return {part.name: part for row in rows for part in row}


def seen_by(part: Part) -> dict[str, str]:
    """The environment that a process of the part gets."""
    command = [sys.executable, "-c", ENVIRONMENT]
    done = subprocess.run(command, env=part.environment("test"), capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_without_the_setting_each_model_has_one_runner_that_sees_what_make_run_sees(tmp_path: Path) -> None:
    table = parts(tmp_path, place(MODELS, {}, "", GPUS))
    runners = {name: part for name, part in table.items() if name.startswith("runner")}
    assert list(runners) == ["runner.flux-1-dev", "runner.sd-mini"]
    assert not any("CUDA_VISIBLE_DEVICES" in seen_by(part) for part in runners.values())


def test_each_of_n_runners_sees_a_gpu_of_its_own_and_shares_nothing(tmp_path: Path) -> None:
    table = parts(tmp_path, place(MODELS, {}, "flux-1-dev=3, sd-mini=1", GPUS))
    runners = {name: seen_by(part) for name, part in table.items() if name.startswith("runner")}
    assert {name: environment["CUDA_VISIBLE_DEVICES"] for name, environment in runners.items()} == {
        "runner.flux-1-dev.1": "0",
        "runner.flux-1-dev.2": "1",
        "runner.flux-1-dev.3": "2",
        "runner.sd-mini": "3",
    }
    assert [environment["MODEL_NAME"] for environment in runners.values()] == ["flux-1-dev"] * 3 + ["sd-mini"]
    for name in ("BENTOML_HOME", "LOG_DIR"):
        assert len({environment.get(name) for environment in runners.values()}) == 4, name
    urls = [table[name].url for name in runners]
    assert len(set(urls)) == 4
    assert table["consumer"].env["RUNNER_URLS"].split(",") == urls
    assert [int(part.command[part.command.index("--port") + 1]) for part in map(table.get, runners) if part] == [
        3001, 3002, 3003, 3004
    ]  # fmt: skip


def test_a_model_that_is_not_named_keeps_one_runner(tmp_path: Path) -> None:
    table = parts(tmp_path, place(MODELS, {}, "flux-1-dev=2", GPUS))
    assert [name for name in table if name.startswith("runner")] == [
        "runner.flux-1-dev.1", "runner.flux-1-dev.2", "runner.sd-mini"
    ]  # fmt: skip
    assert "CUDA_VISIBLE_DEVICES" not in table["runner.sd-mini"].env


def test_gpus_are_given_out_in_the_order_written() -> None:
    placed = place(MODELS, {}, "sd-mini=1,flux-1-dev=1", GPUS)
    assert {runner.model: runner.gpu for runner in placed} == {"sd-mini": "0", "flux-1-dev": "1"}


def test_without_a_gpu_several_runners_share_the_cpu() -> None:
    assert [runner.gpu for runner in place(["sd-mini"], {}, "sd-mini=2", [])] == [None, None]


def test_a_stand_in_is_meant_where_the_model_it_stands_for_is_named() -> None:
    placed = place(["flux-mini"], {"flux-1-dev": "flux-mini"}, "flux-1-dev=2", GPUS)
    assert [runner.name for runner in placed] == ["runner.flux-mini.1", "runner.flux-mini.2"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("flux-1-dev", "RUNNERS must be model=n separated by commas, each n a whole number from 1 to 64, not"),
        ("flux-1-dev=0", "whole number from 1 to 64, not 'flux-1-dev=0'"),
        ("flux-1-dev=many", "whole number from 1 to 64, not 'flux-1-dev=many'"),
        ("sdxl=1", "RUNNERS=sdxl=1 names sdxl, which is not a model; models: flux-1-dev, sd-mini."),
        ("sd-mini=1,sd-mini=2", "RUNNERS=sd-mini=1,sd-mini=2 names sd-mini twice."),
        ("sd-mini=5", "RUNNERS=sd-mini=5 asks for 5 GPUs, one for each runner; there are 4: 0, 1, 2, 3."),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_setting(value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="RUNNERS") as error:
        place(MODELS, {}, value, GPUS)
    assert sentence in str(error.value)


async def test_make_run_ends_with_that_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNNERS", "sdxl=2")
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match="make run: RUNNERS=sdxl=2 names sdxl, which is not a model"):
        await make_run.main()


def test_cuda_visible_devices_limits_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-5f2c")
    assert visible_gpus() == ["4", "GPU-5f2c"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_gpus_are_counted_by_the_driver_and_its_slices_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "GPU 0: NVIDIA H100 (UUID: GPU-a)\n  MIG 1g.10gb Device 0: (UUID: MIG-b)\nGPU 1: NVIDIA H100 (UUID: GPU-c)\n"
    )
    answer = subprocess.CompletedProcess([], 0, stdout=lines)
    monkeypatch.setattr(placement.subprocess, "run", lambda *_, **__: answer)
    assert visible_gpus() == ["0", "1"]


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert visible_gpus() == []
