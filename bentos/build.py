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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from config.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
_RUNNER_ROOMS = ("config", "tasks", "runners")
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
    return sorted(index.parent.name for index in cache.glob("*/model_index.json"))


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
    instead of copied."""
    with tempfile.TemporaryDirectory(prefix="bento-", dir=cache) as name:
        folder = Path(name)
        for room in _RUNNER_ROOMS:
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
        for file in _RUNNER_FILES:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
        shutil.copytree(cache / model, folder / "model_cache" / model, copy_function=_link)
        (folder / "bento_model.txt").write_text(model)
        # JSON is YAML too.
        (folder / "bentofile.yaml").write_text(json.dumps(_runner_bentofile(model)))
        yield folder


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        # The file system has no hard links, or the target lies on another one.
        shutil.copy(source, target)


def _runner_bentofile(model: str) -> dict[str, object]:
    return {
        "service": "bentos.runner:RunnerService",
        "name": f"ai-image-gen-runner-{model}",
        "description": f"The runner of {model}.",
        "include": ["*"],
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
    print(build_gateway())
    for model in names or models:
        print(build_runner(cache, model))


if __name__ == "__main__":
    main(sys.argv[1:])
