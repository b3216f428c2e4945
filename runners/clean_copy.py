"""The copy of a model folder that the libraries load: it holds nothing but what they may see.

diffusers and transformers obey more in a configuration than the fields of the class: where to find code, which kernels
to download, how the weights are quantized, which other file to open. The copy holds only the fields that the class
itself declares, and links to the weights and vocabularies that were checked. Nothing else of the folder can be reached.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import transformers

from runners.checked_folder import Document
from runners.families.schedulers import SAMPLERS
from runners.model_folder import INDEX, ModelFolder, Part

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKENIZER_FIELDS = frozenset(
    (
        *_TOKENS,
        *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "model_max_length", "extra_ids"),
        *("add_prefix_space", "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "do_lower_case"),
        *("errors", "legacy", "padding_side", "truncation_side", "split_special_tokens"),
    )
)
"""What a tokenizer's configuration may set: its tokens and how it cuts text. Other fields name files and classes."""
_BASE_FIELDS = frozenset(("tie_word_embeddings", "is_encoder_decoder", "is_decoder"))
"""Of the fields that all configurations of transformers have, those that describe a network."""


@contextmanager
def clean_copy(folder: ModelFolder) -> Iterator[Path]:
    """The copy, which is removed at the end. Its weights are links, so it takes no space."""
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        copy = Path(name)
        index = {part.name: [part.library, part.class_name] for part in folder.parts}
        _write(copy / INDEX, {"_class_name": folder.class_name, "_diffusers_version": diffusers.__version__, **index})
        for part in folder.parts:
            (copy / part.name).mkdir()
            for file, document in part.documents.items():
                _write(copy / part.name / file, _clean(part, file, document, folder))
            for file, source in part.files.items():
                (copy / part.name / file).symlink_to(os.path.realpath(source))
        yield copy


def _write(file: Path, document: Document) -> None:
    file.write_text(json.dumps(document))


def _clean(part: Part, file: str, document: Document, folder: ModelFolder) -> Document:
    """A JSON file with only the fields that its class declares."""
    if file == "added_tokens.json":
        return {token: number for token, number in document.items() if isinstance(number, int)}
    if "Tokenizer" in part.class_name:
        return {name: value for name, value in document.items() if name in _TOKENIZER_FIELDS}
    if file not in ("config.json", "scheduler_config.json"):
        return document  # the index of the weights' parts, which was written by the check
    if part.library == "transformers":
        config_class = getattr(transformers, part.class_name).config_class
        return _clean_transformers(config_class, document) | {"architectures": [part.class_name]}
    classes = {part.class_name}
    if file == "scheduler_config.json":
        # A request may choose another scheduler, which then takes its fields from the settings of the model's own.
        classes |= {SAMPLERS[name].class_name for name in folder.facts.spec.samplers}
    declared = frozenset[str]().union(*(_declared(getattr(diffusers, name)) for name in classes))
    kept = {name: value for name, value in document.items() if name in declared}
    version = document.get("_diffusers_version")
    return (
        kept | {"_class_name": part.class_name} | ({"_diffusers_version": version} if isinstance(version, str) else {})
    )


def _declared(config_class: Any) -> frozenset[str]:
    """The fields of a class of diffusers."""
    return frozenset(config_class._get_init_keys(config_class)) - {"self", "kwargs", "args"}


def _clean_transformers(config_class: Any, document: Document) -> Document:
    """The fields that this configuration declares beyond those that all have, in its nested configurations likewise."""
    fields = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    fields -= {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    nested = config_class.sub_configs
    kept = {name: value for name, value in document.items() if name in fields | _BASE_FIELDS and name not in nested}
    kept |= {
        name: _clean_transformers(nested[name], value)
        for name, value in document.items()
        if name in nested and isinstance(value, dict)
    }
    return kept | {"model_type": config_class.model_type}
