"""The folders of the tests mirror those of the product, and names of tests and helpers are short and unique."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
ROOMS = ("config", "tasks", "adapters", "functions", "runners", "bentos", "infra", "tools")
KINDS = ("e2e", "proofs", "support")
"""Folders of tests that belong to no single room."""
PROOFS = ("protocol", "crash", "hostile", "soak", "upgrade")
LONGEST_NAME = 80


@cache
def trees() -> dict[str, ast.Module]:
    """Every file under tests/, parsed, by its path from the root of the repository."""
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text()) for file in sorted(TESTS.rglob("*.py"))}


def folders(parent: Path) -> set[str]:
    return {folder.name for folder in parent.iterdir() if (folder / "__init__.py").exists()}


def names(node: ast.stmt) -> list[str]:
    """The names that a statement defines in its module."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return (
        [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []
    )


def test_a_room_and_the_folder_of_its_tests_have_the_same_name() -> None:
    assert folders(TESTS) == {*ROOMS, *KINDS}
    assert folders(ROOT) == {*ROOMS, "tests"}
    assert folders(TESTS / "functions") == folders(ROOT / "functions")
    assert folders(TESTS / "proofs") == set(PROOFS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_tests(room: str) -> None:
    assert list((TESTS / room).rglob("test_*.py"))


def test_the_name_of_a_test_has_at_most_80_characters() -> None:
    too_long = [
        f"{path}: {node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > LONGEST_NAME
    ]
    assert too_long == []


def test_the_name_of_a_class_of_tests_is_unique() -> None:
    places = defaultdict(set)
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].add(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_a_helper_that_several_folders_import_is_in_support() -> None:
    importing_folders = defaultdict(set)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
                for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    file = f"{module.replace('.', '/')}.py"
                    if file in trees():
                        importing_folders[file].add(str(Path(path).parent))
    strays = {
        file: sorted(importers)
        for file, importers in importing_folders.items()
        if not file.startswith(("tests/support/", "tests/proofs/")) and importers != {str(Path(file).parent)}
    }
    assert strays == {}


def test_a_test_file_holds_tests_and_a_helper_file_holds_none() -> None:
    misnamed = [
        path
        for path, tree in trees().items()
        if Path(path).name.startswith("test_")
        != any(name.startswith(("test_", "Test")) for node in tree.body for name in names(node))
    ]
    assert misnamed == []
