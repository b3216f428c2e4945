"""Every file, folder, test and module that a page names exists."""

import re
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = "adapters|bentos|config|docs|functions|infra|model_cache|runners|tasks|tests|tools"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NOT_THERE = {"model_cache/flux-1-dev", "model_cache/stable-diffusion-v1-5", "tests/proofs/upgrade/samples/VERSION"}
"""Placeholders, and folders that a reader makes."""


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def files() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for room in ROOMS.split("|") for path in (ROOT / room).rglob("*.*")]


@cache
def names_of_tests() -> list[str]:
    tests = (path for path in files() if path.startswith("tests/") and path.endswith(".py"))
    return [name for path in tests for name in re.findall(r"^ *(?:async )?def (test_\w+)", _text(path), re.MULTILINE)]


def named_paths(text: str) -> set[str]:
    """Paths that begin at a room, such as tests/e2e or tasks/lease.py, and bare names of Python files."""
    words = re.findall(r"(?<![\w/.:-])[\w./*-]*\w[\w./*-]*", text)
    named = {word for word in words if re.match(rf"(?:{ROOMS})/", word) or re.fullmatch(r"[\w/]+\.py", word)}
    return {path.rstrip("./") for path in named} - NOT_THERE


def exists(path: str) -> bool:
    if (ROOT / path).exists():
        return True
    return any(fnmatch(file, path) or file.endswith(f"/{path}") for file in files())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path):
    assert [path for path in sorted(named_paths(page.read_text(encoding="utf-8"))) if not exists(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path):
    named = re.findall(r"\b(test_\w+)(…?)(?!\w|\.py)", page.read_text(encoding="utf-8"))
    missing = [
        name
        for name, cut in named
        if not any(test == name or (cut and test.startswith(name)) for test in names_of_tests())
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_runs_exists(page: Path):
    modules = re.findall(r"python -m ([a-z_.]+\w)", page.read_text(encoding="utf-8"))
    assert [module for module in modules if module != "pytest" and find_spec(module) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page: Path):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_table_of_promises_names_a_test_for_each():
    rows = re.findall(r"^\| (P\d+) \|.*\| (.*) \|$", _text("docs/architecture.md"), re.MULTILINE)
    assert [promise for promise, _ in rows] == [f"P{number}" for number in range(1, 11)]
    assert all("tests/" in tests or "python -m" in tests for _, tests in rows)
