"""What the Bentos hold: every module that their service imports, the model, and nothing of the other part."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pathspec
import pytest
import yaml

from bentos import build

ROOMS = {path.name for path in build.ROOT.iterdir() if (path / "__init__.py").exists()}


def imported(file: Path, root: Path) -> Iterator[Path]:
    """The files under the root that a Python file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] not in ROOMS:
                continue
            path = root.joinpath(*name.split("."))
            yield from (found for found in (path.with_suffix(".py"), path / "__init__.py") if found.exists())


def needed(start: str) -> set[str]:
    """Every file that a module of the repository needs, as paths from its root."""
    todo, files = [build.ROOT / start], set()
    while todo:
        file = todo.pop()
        if file not in files:
            files.add(file)
            todo += imported(file, build.ROOT)
            todo += [parent / "__init__.py" for parent in file.parents if (parent / "__init__.py").exists()]
    return {str(file.relative_to(build.ROOT)) for file in files}


def included() -> pathspec.PathSpec:
    """What bentofile.yaml includes."""
    bentofile = yaml.safe_load((build.ROOT / "bentofile.yaml").read_text())
    return pathspec.PathSpec.from_lines("gitignore", bentofile["include"])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model cache with one model, and a folder that is none."""
    index = json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]})
    files = {"toy/model_index.json": index, "toy/unet/weights.safetensors": "1", "other/notes.txt": "x"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_gateways_bento_holds_every_module_that_it_imports():
    files = needed("bentos/gateway.py")
    assert "functions/api/routes.py" in files
    assert sorted(file for file in files if not included().match_file(file)) == []


def test_the_gateways_bento_holds_files_beside_the_code_and_no_other_part():
    assert included().match_file("functions/api/page/index.html")
    for file in ("bentos/runner.py", "runners/server.py", "tests/conftest.py", "infra/local/supervisor.py"):
        assert not included().match_file(file), file


def test_a_runners_bento_holds_every_module_that_it_imports(cache: Path):
    with build.staged(cache, "toy") as folder:
        staged = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        files = needed("bentos/runner.py")
        assert "runners/server.py" in files
        assert sorted(files - staged) == []


def test_a_runners_bento_holds_its_model_linked_and_no_other_part(cache: Path):
    with build.staged(cache, "toy") as folder:
        assert (folder / "bento_model.txt").read_text() == "toy"
        weights = folder / "model_cache/toy/unet/weights.safetensors"
        assert weights.stat().st_ino == (cache / "toy/unet/weights.safetensors").stat().st_ino
        assert {path.name for path in (folder / "model_cache").iterdir()} == {"toy"}
        bentofile = json.loads((folder / "bentofile.yaml").read_text())
        assert (bentofile["service"], bentofile["name"]) == ("bentos.runner:RunnerService", "ai-image-gen-runner-toy")
        assert (folder / bentofile["python"]["requirements_txt"]).exists()
        assert not (folder / "functions").exists()
        assert not list(folder.rglob("__pycache__"))
    assert not folder.exists()
    assert (cache / "toy/unet/weights.safetensors").exists()


def test_only_folders_in_diffusers_format_are_models(cache: Path):
    assert build.model_folders(cache) == ["toy"]
