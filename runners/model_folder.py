"""Checks a folder model_cache/<model> without torch: whether it is complete and safe, and the facts of the model."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from runners.checked_folder import CheckedFolder, Document, shown
from runners.families import FAMILIES, Defaults, FamilySpec, ModelFacts, UnusableModel
from tasks.task import Name

INDEX = "model_index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_TOKENIZER_DOCUMENTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model")
_BASES = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""What the weight files of a library are called."""
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Part(BaseModel):
    """One part of the pipeline, as it is loaded: its class, the content of its JSON files, and its other files, by the
    name under which the library looks for them."""

    model_config = ConfigDict(frozen=True)

    name: str
    library: str
    class_name: str
    documents: dict[str, Document]
    files: dict[str, Path]


class ModelFolder(BaseModel):
    """A complete folder. `digest` identifies its configuration, and `sources` are the files that a runner reads,
    relative to `path`. `unusable_loras` has a sentence for each LoRA that is not offered."""

    model_config = ConfigDict(frozen=True)

    path: Path
    class_name: str
    parts: tuple[Part, ...]
    defaults: Defaults
    loras: dict[str, Path]
    unusable_loras: tuple[str, ...] = ()
    sources: tuple[Path, ...]
    digest: str
    facts: ModelFacts


def inspect(cache: Path, model: str) -> ModelFolder:
    """Check every file without loading it. Raises UnusableModel, which names the folder and the file."""
    path = cache / model
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        folders = sorted(shown(entry.parent.name) for entry in cache.glob(f"*/{INDEX}")) if cache.is_dir() else []
        raise UnusableModel(f"There is no model folder {path}. In {cache} there are: {', '.join(folders) or 'none'}.")
    folder = CheckedFolder(cache, path)
    index = folder.document(INDEX)
    class_name = index.get("_class_name")
    spec = FAMILIES.get(class_name) if isinstance(class_name, str) else None
    if spec is None or not isinstance(class_name, str):
        raise UnusableModel(f"{path / INDEX} is of class {shown(class_name)}; supported are {', '.join(FAMILIES)}.")
    try:
        classes = _classes(index, spec)
    except UnusableModel as error:
        raise UnusableModel(f"{path / INDEX}: {error}") from None
    parts = tuple(_part(folder, name, *classes[name], spec) for name in sorted(classes) if name not in spec.without)
    defaults = _defaults(folder)
    try:
        facts = spec.facts({part.name: _config(part) for part in parts if _config(part)}, defaults)
    except UnusableModel as error:
        raise UnusableModel(f"{path}: {error}") from None
    loras, unusable = _loras(folder)
    return ModelFolder(
        path=path,
        class_name=class_name,
        parts=parts,
        defaults=defaults,
        loras=loras,
        unusable_loras=unusable,
        sources=folder.sources,
        digest=folder.digest,
        facts=facts,
    )


def _classes(index: Mapping[str, Any], spec: FamilySpec) -> dict[str, tuple[str, str]]:
    """The (library, class) of each part of the index. Only the classes of the family are allowed."""
    classes: dict[str, tuple[str, str]] = {}
    for name, value in index.items():
        if name.startswith("_") or isinstance(value, bool) or value == [None, None]:
            continue
        match value:
            case [str(library), str(class_name)]:
                _check_class(name, library, class_name, spec)
                classes[name] = (library, class_name)
            case _:
                raise UnusableModel(f"the part {shown(name)} is not written as [library, class].")
    for name in spec.parts:
        if name not in classes and name not in spec.without:
            raise UnusableModel(f"the model has no part {name!r}.")
    return classes


def _check_class(name: str, library: str, class_name: str, spec: FamilySpec) -> None:
    allowed = spec.parts.get(name)
    if allowed is None:
        raise UnusableModel(f"a model of the family {spec.name} has no part {shown(name)}.")
    if f"{library}.{class_name}" not in allowed:
        chosen = shown(f"{library}.{class_name}")
        raise UnusableModel(f"the part {name!r} is of class {chosen}; allowed are {', '.join(allowed)}.")


def _part(folder: CheckedFolder, name: str, library: str, class_name: str, spec: FamilySpec) -> Part:
    """Check and collect the files of one part."""
    present = set(folder.names(name, ""))
    files: dict[str, Path] = {}
    if "Tokenizer" in class_name:
        documents = {
            file: folder.document(f"{name}/{file}") for file in _TOKENIZER_DOCUMENTS if f"{name}/{file}" in present
        }
        files = {file: folder.vocabulary(f"{name}/{file}") for file in _VOCABULARIES if f"{name}/{file}" in present}
        if not files:
            raise UnusableModel(f"{folder.path / name} has no vocabulary: none of {', '.join(_VOCABULARIES)}.")
        return Part(name=name, library=library, class_name=class_name, documents=documents, files=files)
    scheduler = class_name.endswith("Scheduler")
    file = "scheduler_config.json" if scheduler else "config.json"
    config = folder.document(f"{name}/{file}", infinite=scheduler)
    if "_class_name" in config:
        # What the configuration says is what its values were written for.
        class_name = str(config["_class_name"])
        try:
            _check_class(name, library, class_name, spec)
        except UnusableModel as error:
            raise UnusableModel(f"{folder.path / name / file}: {error}") from None
    documents = {file: config}
    if not scheduler:
        shards, files = _weights(folder, name, _BASES[library])
        documents |= shards
    return Part(name=name, library=library, class_name=class_name, documents=documents, files=files)


def _weights(folder: CheckedFolder, part: str, base: str) -> tuple[dict[str, Document], dict[str, Path]]:
    """The shard index of a part, if there is one, and its weight files, by the names without a variant.

    Files of a variant, for example fp16, are used where the part has no others.
    """
    present = folder.names(part, "")
    index, single = f"{part}/{base}.safetensors.index", f"{part}/{base}"
    for name in (
        *(file for file in present if file == f"{index}.json"),
        *(file for file in present if file == f"{single}.safetensors"),
        *(file for file in present if file.startswith(f"{index}.") and file.endswith(".json")),
        *(file for file in present if file.startswith(f"{single}.") and file.endswith(".safetensors")),
    ):
        if name.endswith(".safetensors"):
            if "-of-" in name:
                continue
            return {}, {f"{base}.safetensors": folder.weights(name)}
        shards = folder.shards(name)
        weight_map = {"metadata": {}, "weight_map": folder.document(name)["weight_map"]}
        return (
            {f"{base}.safetensors.index.json": weight_map},
            {shard: folder.weights(f"{part}/{shard}") for shard in shards},
        )
    pickles = [file for file in present if file.endswith(PICKLES)]
    if pickles:
        raise UnusableModel(
            f"{folder.path / pickles[0]} is a pickle, which may run any code: only .safetensors is loaded."
        )
    raise UnusableModel(f"{folder.path / part} has no file {base}.safetensors.")


def _config(part: Part) -> Document:
    """The configuration of one part; empty for a tokenizer, whose configuration is no fact of the model."""
    files = ("config.json", "scheduler_config.json")
    config = next((part.documents[file] for file in files if file in part.documents), {})
    return config | {"_class_name": part.class_name} if config else {}


def _defaults(folder: CheckedFolder) -> Defaults:
    file = "defaults.json"
    if not folder.has(file):
        return Defaults()
    try:
        return Defaults.model_validate(folder.document(file))
    except ValidationError as error:
        first = error.errors()[0]
        field = shown(".".join(map(str, first["loc"])))
        raise UnusableModel(f"{folder.path / file}: {field}: {shown(first['msg'])}.") from None


def _loras(folder: CheckedFolder) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The LoRAs by their names, and a sentence for each file that is none."""
    loras: dict[str, Path] = {}
    unusable: list[str] = []
    try:
        files = folder.names("loras", ".safetensors") if folder.has("loras") else []
    except UnusableModel as error:
        return {}, (str(error),)
    for file in files:
        try:
            loras[_NAME.validate_python(Path(file).stem)] = folder.lora(file)
        except ValidationError:
            unusable.append(f"{folder.path}: {shown(file)} has a name that no request may have.")
        except UnusableModel as error:
            unusable.append(str(error))
    return loras, tuple(unusable)
