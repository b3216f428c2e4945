"""A minute of the soak: real processes killed, stopped and restarted under load. `make soak` is the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import ROOT


@pytest.mark.timeout(900)  # a busy machine takes minutes to start two runners again
def test_a_minute_of_kills_loses_nothing_doubles_nothing_and_leaves_nothing_running(tmp_path: Path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.proofs.soak", "--minutes", "1", "--kills", "10", "--seed", "7"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run([*command, "--json", str(figures)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-4000:]
    counts = json.loads(figures.read_text())
    assert counts["kill -9 in all"] == 10
    assert counts["tasks by outcome"]["completed"] > 0
