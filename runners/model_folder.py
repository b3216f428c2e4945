"""What lies in model_cache/<model>, judged without torch: is it all there, is it safe, what are its own defaults."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from runners.families import FAMILIES

INDEX = "model_index.json"
WEIGHTLESS = ("scheduler", "tokenizer", "feature_extractor")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a pipeline that a runner never loads."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


class UnusableModel(Exception):
    """The model cannot be run. The message is one sentence for the person who put it there."""


class Defaults(BaseModel):
    """`defaults.json` of a model's folder: what it does best, where that is not what its family does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    true_cfg_scale: float | None = None
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None


class ModelFolder(BaseModel):
    """A folder found complete. `digest` names its configuration; `variant` is part of its weights' file names."""

    model_config = ConfigDict(frozen=True)

    path: Path
    class_name: str
    variant: str | None
    defaults: Defaults
    loras: dict[str, Path]
    digest: str


def inspect(cache: Path, model: str) -> ModelFolder:
    """Look at every file without loading it. Raises UnusableModel naming the folder and the file."""
    path = cache / model
    if not path.is_dir():
        there = sorted(entry.parent.name for entry in cache.glob(f"*/{INDEX}")) if cache.is_dir() else []
        raise UnusableModel(f"There is no model folder {path}. In {cache} there are: {', '.join(there) or 'none'}.")
    index = _json(path / INDEX)
    class_name = index.get("_class_name")
    if class_name not in FAMILIES:
        raise UnusableModel(f"{path / INDEX} is of class {class_name}; supported are {', '.join(FAMILIES)}.")
    variants = {_part(path / name) for name, value in sorted(index.items()) if _has_weights(name, value)}
    named = variants - {None}
    if len(named) > 1:
        raise UnusableModel(f"{path} mixes the weight variants {', '.join(sorted(v for v in named if v))}.")
    return ModelFolder(
        path=path,
        class_name=class_name,
        variant=next(iter(named), None),
        defaults=_defaults(path / "defaults.json"),
        loras=_loras(path / "loras"),
        digest=_digest(path),
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


def _has_weights(name: str, value: Any) -> bool:
    loaded = isinstance(value, list) and len(value) == 2 and value[1] is not None
    return loaded and not name.startswith(WEIGHTLESS) and name not in UNUSED


def _part(folder: Path) -> str | None:
    """Check one part of the pipeline; the variant its weights have, None for the plain ones."""
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
    """The header of a safetensors file says how long the file must be: catches one cut short, reading 1 kB of it."""
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
