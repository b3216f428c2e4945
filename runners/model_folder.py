"""Checks a folder model_cache/<model> without torch: whether it is complete and safe, and the facts of the model."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from runners.families import FAMILIES, Defaults, ModelFacts, UnusableModel

INDEX = "model_index.json"
WEIGHTLESS = ("scheduler", "tokenizer", "feature_extractor")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


class ModelFolder(BaseModel):
    """A complete folder. `digest` identifies its configuration, and `variant` is part of the names of its weight files
    (for example fp16)."""

    model_config = ConfigDict(frozen=True)

    path: Path
    class_name: str
    variant: str | None
    defaults: Defaults
    loras: dict[str, Path]
    digest: str
    facts: ModelFacts


def inspect(cache: Path, model: str) -> ModelFolder:
    """Check every file without loading it. Raises UnusableModel, which names the folder and the file."""
    path = cache / model
    if not path.is_dir():
        folders = sorted(entry.parent.name for entry in cache.glob(f"*/{INDEX}")) if cache.is_dir() else []
        raise UnusableModel(f"There is no model folder {path}. In {cache} there are: {', '.join(folders) or 'none'}.")
    index = _json(path / INDEX)
    class_name = index.get("_class_name")
    spec = FAMILIES.get(class_name) if isinstance(class_name, str) else None
    if spec is None or not isinstance(class_name, str):
        raise UnusableModel(f"{path / INDEX} is of class {class_name}; supported are {', '.join(FAMILIES)}.")
    parts = [name for name, value in sorted(index.items()) if _is_loaded(value) and name not in spec.without]
    variants = {_part(path / name) for name in parts if not name.startswith(WEIGHTLESS)}
    named = variants - {None}
    if len(named) > 1:
        raise UnusableModel(f"{path} mixes the weight variants {', '.join(sorted(v for v in named if v))}.")
    defaults = _defaults(path / "defaults.json")
    try:
        facts = spec.facts({name: config for name in parts if (config := _config(path / name))}, defaults)
    except UnusableModel as error:
        raise UnusableModel(f"{path}: {error}") from None
    return ModelFolder(
        path=path,
        class_name=class_name,
        variant=next(iter(named), None),
        defaults=defaults,
        loras=_loras(path / "loras"),
        digest=_digest(path),
        facts=facts,
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UnusableModel(f"{file} is missing.") from None
    except (ValueError, OSError) as error:
        raise UnusableModel(f"{file} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UnusableModel(f"{file} is not a JSON object.")
    return value


def _is_loaded(value: Any) -> bool:
    """Whether an entry of the index is a part of the pipeline: [library, class], not [null, null]."""
    return isinstance(value, list) and len(value) == 2 and value[1] is not None


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of one part; empty for a tokenizer, which has none."""
    files = (folder / "config.json", folder / "scheduler_config.json")
    return next((_json(file) for file in files if file.exists()), {})


def _part(folder: Path) -> str | None:
    """Check one part of the pipeline. Returns the variant of its weights; None if their names have no variant."""
    _json(folder / "config.json")
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        for shard in sorted(set(_json(index).get("weight_map", {}).values())):
            _check_weights(folder / shard)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [file for file in sorted(folder.iterdir()) if file.suffix in PICKLES]
        if pickles:
            raise UnusableModel(f"{pickles[0]} is a pickle, which may run any code: only .safetensors is loaded.")
        raise UnusableModel(f"{folder} has no .safetensors file.")
    for file in files:
        _check_weights(file)
    names = [file.name.removesuffix(".safetensors").split("-of-")[0] for file in files]
    variants = [name.split(".", 1)[1].split("-")[0] if "." in name else None for name in names]
    return None if None in variants else variants[0]


def _check_weights(file: Path) -> None:
    """Check the length of the file against its header. This finds a truncated file and reads only the header."""
    try:
        with file.open("rb") as data:
            (length,) = struct.unpack("<Q", data.read(8))
            header = json.loads(data.read(length)) if length <= 100_000_000 else None
        size = file.stat().st_size
    except FileNotFoundError:
        raise UnusableModel(f"{file} is missing.") from None
    except (struct.error, ValueError, OSError) as error:
        raise UnusableModel(f"{file} is not a safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise UnusableModel(f"{file} is not a safetensors file.")
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if size != 8 + length + end:
        raise UnusableModel(f"{file} is broken: {size} bytes instead of {8 + length + end}.")


def _defaults(file: Path) -> Defaults:
    if not file.exists():
        return Defaults()
    try:
        return Defaults.model_validate(_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        raise UnusableModel(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def _loras(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.json")):
        digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
