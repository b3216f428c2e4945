"""A Bento holds what its service imports, and nothing else of the repository."""

import ast
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pathspec
import pytest
import yaml

from bentos import build
from infra.local.process import ROOT

NEVER_SHIPPED = ("tools", "tests", "infra", "docs")
INCLUDED = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]


def imported(path: Path, seen: set[Path]) -> set[Path]:
    """The file and every file of the repository that it imports, at any remove."""
    if path in seen or not path.exists():
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names: Iterable[str] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            place = ROOT.joinpath(*name.split("."))
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                imported(file, seen)
    return seen


def rooms(files: Iterable[Path]) -> set[str]:
    return {file.relative_to(ROOT).parts[0] for file in files}


def test_the_gateways_bento_holds_all_that_the_gateway_imports() -> None:
    needed = imported(ROOT / "bentos" / "gateway.py", set())
    assert {"functions", "adapters", "tasks", "config"} <= rooms(needed)
    missing = [
        str(file.relative_to(ROOT))
        for file in needed
        if not pathspec.PathSpec.from_lines("gitignore", INCLUDED).match_file(str(file.relative_to(ROOT)))
    ]
    assert missing == []


@pytest.mark.parametrize("room", NEVER_SHIPPED)
def test_the_gateways_bento_leaves_out(room: str) -> None:
    assert not any(pattern.startswith(room) for pattern in INCLUDED)
    assert room not in rooms(imported(ROOT / "bentos" / "gateway.py", set()))


def test_a_runners_bento_holds_its_code_and_one_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for model in ("sd-mini", "another"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "model_index.json").write_text("{}")
    staged: set[str] = set()

    def look(command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        staged.update(str(file.relative_to(cwd)) for file in cwd.rglob("*") if file.is_file())
        return subprocess.CompletedProcess(command, 0, stdout="__tag__:sd-mini:1\n")

    monkeypatch.setattr(build.subprocess, "run", look)
    assert build.build_runner(tmp_path, "sd-mini") == "sd-mini:1"
    needed = {str(file.relative_to(ROOT)) for file in imported(ROOT / "bentos" / "runner.py", set())}
    assert needed <= staged
    assert "model_cache/sd-mini/model_index.json" in staged
    assert not any(file.startswith((*NEVER_SHIPPED, "functions", "adapters", "model_cache/another")) for file in staged)
