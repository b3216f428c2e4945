"""Every setting, command and handler path that a released version had still works, with the same default.

`interface/VERSION/` holds what that version had, written once at its release. A default that changes is a new entry in
CHANGED, with the reason an operator reads in docs/upgrades.md.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load_settings
from infra.local.ports import PORTS
from infra.local.process import ROOT

INTERFACE = Path(__file__).parent / "interface"
VERSIONS = sorted(folder.name for folder in INTERFACE.iterdir())
CHANGED: dict[str, str] = {}
"""Settings whose default changed after a release, and why."""

LOAD = """
import importlib, sys
for path in sys.argv[1:]:
    module, name = path.split(":")
    print(path, type(getattr(importlib.import_module(module), name)).__name__)
"""


def frozen(name: str) -> list[Any]:
    """What every version had, as test parameters."""
    return [
        pytest.param(entry, id=f"{version}-{entry}")
        for version in VERSIONS
        for entry in json.loads((INTERFACE / version / "commands.json").read_text())[name]
    ]


def defaults() -> list[Any]:
    return [
        pytest.param(name, value, id=f"{version}-{name}")
        for version in VERSIONS
        for name, value in json.loads((INTERFACE / version / "settings.json").read_text()).items()
    ]


@pytest.mark.parametrize(("name", "default"), defaults())
def test_a_setting_keeps_its_name_and_default(name: str, default: object):
    assert name.lower() in Settings.model_fields, f"{name} is gone: an operator who sets it gets the default, unwarned"
    if name not in CHANGED:
        assert Settings().model_dump(mode="json")[name.lower()] == default


@pytest.mark.parametrize(("name", "default"), defaults())
def test_an_old_default_written_out_is_still_understood(name: str, default: object):
    text = default
    if isinstance(default, dict):
        text = ",".join(f"{key}={value}" for key, value in default.items())
    if isinstance(default, list):
        text = ",".join(default)
    read = load_settings({name: str(text) if text is not None else ""})
    assert read.model_dump(mode="json")[name.lower()] == default


@pytest.mark.parametrize("module", frozen("modules"))
def test_a_command_can_still_be_run_by_its_module(module: str):
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec is not None and spec.origin is not None
    assert 'if __name__ == "__main__":' in Path(spec.origin).read_text()


def test_a_service_or_a_handler_is_still_found_by_its_path():
    paths = [param.values[0] for param in frozen("objects")]
    done = subprocess.run([sys.executable, "-c", LOAD, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = dict(line.split(" ") for line in done.stdout.splitlines() if ":" in line)
    assert set(paths) <= kinds.keys()
    assert kinds["functions.consume.lambda_:handler"] == "function"
    assert {kinds[path] for path in paths if path.startswith("bentos")} == {"Service"}


def test_the_command_for_a_new_key_still_makes_one():
    command = [sys.executable, "-m", "functions.api.keys", "new", "ada", "--model", "sd-mini", "--lane", "online_task"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["user"] == "ada"


@pytest.mark.parametrize("target", frozen("make"))
def test_a_make_target_is_still_there(target: str):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", frozen("make_run"))
def test_a_setting_of_make_run_keeps_its_name(name: str):
    assert name in PORTS or f'"{name}"' in (ROOT / "infra" / "local" / "__main__.py").read_text()
