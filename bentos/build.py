"""`python -m bentos.build [MODEL ...]` builds the Bento of the gateway, and one for a runner of each model.

With names, it builds the Bento of the gateway and those of the named models.
`bentoml serve ai-image-gen-gateway:latest` and `bentoml serve ai-image-gen-runner-MODEL:latest` then need no network.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bentos.model_files import INDEX, UnusableFolder, left_out, model_files
from config.settings import load_settings

__all__ = ["UnusableFolder", "build_gateway", "build_runner", "main", "model_folders", "staged"]

ROOT = Path(__file__).resolve().parents[1]
_SHOWN = 5
RUNNER_ROOMS = ("config", "tasks", "runners")
_RUNNER_FILES = (
    "bentos/__init__.py",
    "bentos/control.py",
    "bentos/framing.py",
    "bentos/hosting.py",
    "bentos/runner.py",
    "bentos/signals.py",
    "requirements/runner.txt",
)


def model_folders(cache: Path) -> list[str]:
    """The names of the model folders: those in diffusers format."""
    folders = (index.parent.name for index in cache.glob(f"*/{INDEX}"))
    return sorted(name for name in folders if not name.startswith("."))


def build_gateway() -> str:
    """Build the gateway's Bento and return its tag."""
    return _build(ROOT)


def build_runner(cache: Path, model: str) -> str:
    """Build the Bento of one model's runner, weights included, and return its tag."""
    with staged(cache, model) as folder:
        return _build(folder)


@contextmanager
def staged(cache: Path, model: str) -> Iterator[Path]:
    """A folder with the files that a runner needs and no others. It lies in the cache, so that weights can be linked
    instead of copied. Raises UnusableFolder."""
    files = model_files(cache, model)
    with tempfile.TemporaryDirectory(prefix="bento-", dir=cache) as name:
        folder = Path(name)
        for room in RUNNER_ROOMS:
            for file in _code(ROOT / room):
                _put(shutil.copy, file, folder / file.relative_to(ROOT))
        for name_of_file in _RUNNER_FILES:
            _put(shutil.copy, ROOT / name_of_file, folder / name_of_file)
        for name_of_file, file in files.items():
            _put(_link, file, folder / "model_cache" / model / name_of_file)
        (folder / "bento_model.txt").write_text(model)
        # JSON is YAML too.
        (folder / "bentofile.yaml").write_text(json.dumps(_runner_bentofile(model)))
        yield folder


def _code(room: Path) -> Iterator[Path]:
    """The Python files of a room; a hidden file, a link or data beside the code stays here."""
    for file in room.rglob("*.py"):
        if not file.is_symlink() and not any(name.startswith(".") for name in file.relative_to(room).parts):
            yield file


def _put(copy: Callable[[Path, Path], object], source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    copy(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # The file system has no hard links, or the target lies on another one.
        shutil.copy(source, target)


def _runner_bentofile(model: str) -> dict[str, object]:
    return {
        "service": "bentos.runner:RunnerService",
        "name": f"ai-image-gen-runner-{model}",
        "description": f"The runner of {model}.",
        "include": ["*"],
        "exclude": [".*"],
        "python": {"requirements_txt": "requirements/runner.txt", "lock_packages": False},
    }


def _build(folder: Path) -> str:
    # In a process of its own: BentoML reuses the arguments of the first build for all later ones.
    command = [sys.executable, "-m", "bentoml", "build", str(folder), "--output", "tag"]
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(f"bentoml could not build {folder}; its output above says why.")
    return result.stdout.strip().removeprefix("__tag__:")


def main(names: Sequence[str]) -> None:
    """Build the Bentos and print their tags."""
    cache = load_settings().model_cache_dir.resolve()
    models = model_folders(cache)
    if missing := sorted(set(names) - set(models)):
        sys.exit(f"{cache} has no model {', '.join(missing)}. Models: {', '.join(models) or 'none'}.")
    try:
        for model in names or models:
            _say_what_is_left_out(cache, model)
        print(build_gateway())
        for model in names or models:
            print(build_runner(cache, model))
    except UnusableFolder as error:
        sys.exit(str(error))


def _say_what_is_left_out(cache: Path, model: str) -> None:
    if names := left_out(cache, model, model_files(cache, model)):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = ", ".join(map(repr, names[:_SHOWN]))
        print(f"The Bento of {model} leaves out what the runner does not read: {shown}{more}.", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
