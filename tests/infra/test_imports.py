"""Importing a module of the project starts nothing: no thread, no process, no open port."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("adapters", "bentos", "config", "functions", "infra", "runners", "tasks", "tools")

IMPORT_ALL = """
import importlib, sys, threading
import psutil
for module in sys.argv[1:]:
    importlib.import_module(module)
me = psutil.Process()
listening = [c for c in me.net_connections() if c.status == psutil.CONN_LISTEN]
print([t.name for t in threading.enumerate()], me.children(), listening)
"""


def modules(*rooms: str) -> list[str]:
    """Every module of the rooms but those that run when imported by name."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__main__.py"
    ]


def test_importing_every_module_starts_nothing() -> None:
    command = [sys.executable, "-c", IMPORT_ALL, *modules(*ROOMS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['MainThread'] [] []"


@pytest.mark.parametrize("room", ["tasks", "config"])
def test_a_room_of_values_loads_no_server_and_no_model_library(room: str) -> None:
    heavy = "import sys; loaded = [m for m in ('torch', 'bentoml', 'boto3', 'confluent_kafka') if m in sys.modules]"
    code = f"import importlib\nfor m in {modules(room)!r}: importlib.import_module(m)\n{heavy}\nprint(loaded)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
