"""Which files of a model's folder go into its Bento: those that its index names, and nothing that only lies near them.

A Bento is handed on, so a token, a `.git` folder or a link to a secret in the folder must not travel with it.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NoReturn

INDEX = "model_index.json"
_INDEX_BYTES = 1024**2
_ROOT_FILES = (INDEX, "defaults.json")
_LEGAL = ("license*", "licence*", "copying*", "notice*", "readme*", "use_policy*")
_LORAS = "loras"
_LORA_FILES = ("*.safetensors",)
_PART_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Weights, configurations, and the vocabularies of tokenizers."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class UnusableFolder(Exception):
    """No Bento can be made of the folder. The message is one sentence for the person who installed it."""


def model_files(cache: Path, model: str) -> dict[str, Path]:
    """The file behind each name, relative to the model's folder, that its Bento holds; no value is a link.

    Raises UnusableFolder if a file or a folder is a link out of the cache. Links into the cache and those of a snapshot
    of the Hugging Face Hub to its own blobs are resolved.
    """
    cache = cache.resolve()
    folder = cache / model
    links = _Links(cache, folder)
    wanted = [(name, links.follow(folder / name)) for name in _names(links, folder, _ROOT_FILES)]
    wanted += [(name, links.follow(folder / name)) for name in _names(links, folder, _LEGAL)]
    index = _index(folder, dict(wanted))
    for part, patterns in ((_LORAS, _LORA_FILES), *((part, _PART_FILES) for part in _parts(folder / INDEX, index))):
        if (folder / part).is_dir() or (folder / part).is_symlink():
            place = links.follow(folder / part)
            names = _names(links, folder / part, patterns) if place.is_dir() else ()
            wanted += [(f"{part}/{name}", links.follow(folder / part / name)) for name in names]
    return {name: file for name, file in wanted if not file.is_dir()}


def left_out(cache: Path, model: str, files: dict[str, Path]) -> list[str]:
    """The files of the folder, hidden ones aside, that do not go into the Bento."""
    folder = cache / model
    found = ((Path(root) / name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return sorted(
        str(name) for name in found if str(name) not in files and not any(part[0] == "." for part in name.parts)
    )


class _Links:
    """Where links of one model's folder may lead."""

    def __init__(self, cache: Path, folder: Path) -> None:
        self._cache = cache
        self._homes = [cache]
        target = folder.resolve()
        repository = target.parent.parent
        if target.parent.name == "snapshots" and repository.name.startswith("models--"):
            self._homes = [target, repository / "blobs", cache]
        elif not target.is_relative_to(cache):
            raise UnusableFolder(
                f"{folder} is a link to {target}, outside of {cache}. Move the model there, or set MODEL_CACHE_DIR to "
                "the folder that holds it."
            )

    def follow(self, path: Path) -> Path:
        """The file or folder itself."""
        try:
            target = path.resolve(strict=True)
            mode = target.stat().st_mode
        except (OSError, RuntimeError):
            raise UnusableFolder(f"{path} is missing, or is a link that leads nowhere.") from None
        if not self._may_lead_to(path, target):
            raise UnusableFolder(
                f"{path} is a link to {target}. A link may lead only to a file of the same type in {self._cache}."
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnusableFolder(f"{path} is neither a file nor a folder.")
        return target

    def _may_lead_to(self, path: Path, target: Path) -> bool:
        home = next((home for home in self._homes if target.is_relative_to(home)), None)
        if home is None or any(name.startswith(".") for name in target.relative_to(home).parts):
            return False
        # The blobs of the Hub have no type.
        return target.is_dir() or target.suffix == path.suffix or target.parent.name == "blobs"


def _names(links: _Links, folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The names in the folder that a pattern allows, hidden ones aside."""
    names = sorted(entry.name for entry in links.follow(folder).iterdir() if not entry.name.startswith("."))
    return [name for name in names if any(fnmatch(name.lower(), pattern) for pattern in patterns)]


def _index(folder: Path, files: dict[str, Path]) -> dict[str, object]:
    path = folder / INDEX
    if INDEX not in files or files[INDEX].is_dir():
        raise UnusableFolder(f"{path} is missing.")
    if files[INDEX].stat().st_size > _INDEX_BYTES:
        raise UnusableFolder(f"{path} is larger than {_INDEX_BYTES} bytes.")
    try:
        index = json.loads(files[INDEX].read_bytes())
    except (ValueError, RecursionError):
        _no_object(path)
    return index if isinstance(index, dict) else _no_object(path)


def _no_object(path: Path) -> NoReturn:
    raise UnusableFolder(f"{path} is not a JSON object.")


def _parts(path: Path, index: dict[str, object]) -> Iterator[str]:
    """The parts of the pipeline that the index names: `"unet": [library, class]`, not `[null, null]`."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value[1] is not None:
            if not _PART.fullmatch(name):
                raise UnusableFolder(f"{path} names a part {name!r}; a part is a folder beside it.")
            yield name
