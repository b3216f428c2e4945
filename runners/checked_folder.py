"""Reads the files of a model folder, which may be anybody's work. Every problem is an UnusableModel with one sentence.

Only regular files are opened, only below the model cache, and none is read beyond its limit: a pipe would block for
ever, a device has no end, and a link may lead to a secret. Without torch.
"""

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from runners.families import UnusableModel

Document = dict[str, Any]
DOCUMENT_LIMIT = 4 * 1024**2
"""Bytes. The largest published configuration, the shard index of a language model, has less than half of it."""
VOCABULARY_LIMIT = 128 * 1024**2
"""Bytes. The largest published tokenizer.json has a fourth of it."""
HEADER_LIMIT = 32 * 1024**2
"""Bytes. A model's header has less than one megabyte; a LoRA's may hold its training data's tags, some megabytes."""
_METADATA = "__metadata__"
_LORA_METADATA = "lora_adapter_metadata"
_LORA_FIELDS = frozenset(
    (
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "bias", "lora_bias"),
        *("layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "use_rslora", "use_dora"),
        *("inference_mode", "peft_type", "peft_version", "task_type", "revision", "base_model_name_or_path"),
        "qalora_group_size",
    )
)
"""The fields of peft's LoraConfig that a LoRA may set. Of the others, `megatron_core` names a module to import."""
_LORA_DEFAULTS = {"megatron_core": ("megatron.core",), "init_lora_weights": (True, "gaussian")}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CheckedFolder:
    """One model folder. It remembers which of its files were read."""

    def __init__(self, cache: Path, path: Path) -> None:
        """`path` is a folder of `cache`, or a link that the operator put there."""
        self.path = path
        real = Path(os.path.realpath(path))
        # The files of a Hub snapshot are links to the blobs beside it.
        blobs = [real.parent.parent / "blobs"] if real.parent.name == "snapshots" else []
        self._roots = [Path(os.path.realpath(cache)), real, *blobs]
        self._json: dict[Path, bytes] = {}
        self._sources: set[Path] = set()

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that were read, relative to the folder."""
        return tuple(sorted(self._sources))

    @property
    def digest(self) -> str:
        """Identifies the JSON files that were read."""
        digest = hashlib.sha256()
        for name, content in sorted(self._json.items()):
            digest.update(str(name).encode() + b"\0" + content)
        return digest.hexdigest()[:16]

    def has(self, name: str) -> bool:
        """Whether something of that name is there, even a link that leads nowhere."""
        return os.path.lexists(self.path / name)

    def names(self, folder: str, suffix: str) -> list[str]:
        """The names, relative to the model folder, of what lies in one of its folders and ends in `suffix`, sorted."""
        self._real(folder)
        try:
            entries = [entry.name for entry in (self.path / folder).iterdir()]
        except NotADirectoryError:
            raise UnusableModel(f"{self.path / folder} is not a folder.") from None
        except OSError as error:
            self._unreadable(folder, error)
        return sorted(f"{folder}/{entry}" for entry in entries if entry.endswith(suffix))

    def document(self, name: str, *, infinite: bool = False) -> Document:
        """The JSON object in the file `name`. `infinite` allows Infinity, which some schedulers' settings have."""
        value = self._parsed(name, self._content(name, DOCUMENT_LIMIT), infinite)
        if not isinstance(value, dict):
            raise UnusableModel(f"{self.path / name} is not a JSON object.")
        return value

    def vocabulary(self, name: str) -> Path:
        """The path of a tokenizer's file, which is not parsed here."""
        self._content(name, VOCABULARY_LIMIT)
        return self.path / name

    def weights(self, name: str) -> Path:
        """The path of a safetensors file, whose length fits its header. Only the header is read."""
        self._header(name)
        return self.path / name

    def lora(self, name: str) -> Path:
        """The path of a LoRA's safetensors file, whose metadata sets nothing but ranks, alphas and layers."""
        metadata = self._header(name).get(_METADATA)
        text = metadata.get(_LORA_METADATA) if isinstance(metadata, dict) else None
        fields = self._parsed(name, text.encode(errors="replace"), False) if isinstance(text, str) else {}
        if not isinstance(fields, dict):
            raise UnusableModel(f"{self.path / name}: its {_LORA_METADATA} is not a JSON object.")
        for key, value in fields.items():
            field = key.rpartition(".")[2]
            if value and field not in _LORA_FIELDS and value not in _LORA_DEFAULTS.get(field, ()):
                raise UnusableModel(f"{self.path / name} sets {shown(key)}, which a LoRA may not do.")
        return self.path / name

    def shards(self, name: str) -> list[str]:
        """The names of the files that the shard index `name` lists; all lie beside it."""
        shards = self.document(name).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
            raise UnusableModel(f"{self.path / name}: its weight_map does not name a file for each tensor.")
        for shard in shards.values():
            if not _PLAIN_NAME.fullmatch(shard) or not shard.endswith(".safetensors"):
                raise UnusableModel(f"{self.path / name} names {shown(shard)}, which is no safetensors file beside it.")
        return sorted(set(shards.values()))

    def _real(self, name: str) -> str:
        """The path behind all links, which lies below the cache."""
        try:
            real = os.path.realpath(self.path / name, strict=True)
        except OSError as error:
            self._unreadable(name, error)
        if not any(Path(real).is_relative_to(root) for root in self._roots):
            raise UnusableModel(f"{self.path / name} is a link to {shown(real)}, which is not in the model cache.")
        return real

    def _open(self, name: str) -> BinaryIO:
        try:
            # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
            file = os.fdopen(os.open(self._real(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except IsADirectoryError:
            raise UnusableModel(f"{self.path / name} is not a regular file.") from None
        except OSError as error:
            self._unreadable(name, error)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise UnusableModel(f"{self.path / name} is not a regular file.")
        self._sources.add(Path(name))
        return file

    def _content(self, name: str, limit: int) -> bytes:
        with self._open(name) as file:
            try:
                content = file.read(limit + 1)
            except OSError as error:
                self._unreadable(name, error)
        if len(content) > limit:
            raise UnusableModel(f"{self.path / name} is larger than {limit} bytes.")
        if name.endswith(".json"):
            self._json[Path(name)] = content
        return content

    def _parsed(self, name: str, content: bytes, infinite: bool) -> Any:
        def constant(text: str) -> float:
            if infinite and text != "NaN":
                return float(text)
            raise ValueError(f"it holds {text}")

        def fraction(text: str) -> float:
            if math.isinf(value := float(text)):
                raise ValueError(f"it holds {text[:20]}")
            return value

        try:
            return json.loads(content, parse_constant=constant, parse_float=fraction, object_pairs_hook=_unique)
        except RecursionError:
            raise UnusableModel(f"{self.path / name} is nested too deeply.") from None
        except ValueError as error:
            raise UnusableModel(f"{self.path / name} cannot be read: {shown(str(error))}.") from None

    def _header(self, name: str) -> Document:
        """The header of a safetensors file: https://github.com/huggingface/safetensors#format."""
        foreign = f"{self.path / name} is not a safetensors file"
        with self._open(name) as file:
            try:
                start = file.read(8)
                (length,) = struct.unpack("<Q", start)
                if length > HEADER_LIMIT:
                    raise UnusableModel(f"{foreign}: its header would be larger than {HEADER_LIMIT} bytes.")
                content = file.read(length)
                if len(content) < length:
                    raise UnusableModel(f"{foreign}: it ends within its header.")
                header = json.loads(content, object_pairs_hook=_unique)
                size = os.fstat(file.fileno()).st_size
            except (struct.error, ValueError, RecursionError) as error:
                raise UnusableModel(f"{foreign}: {shown(str(error))}.") from None
            except OSError as error:
                self._unreadable(name, error)
        if not isinstance(header, dict):
            raise UnusableModel(f"{foreign}: its header is not a JSON object.")
        end = 0
        for tensor, entry in header.items():
            if tensor == _METADATA:
                continue
            match entry:
                case {"data_offsets": [int(begin), int(last)]} if 0 <= begin <= last:
                    end = max(end, last)
                case _:
                    raise UnusableModel(f"{foreign}: it does not say where the tensor {shown(tensor)} lies.")
        if size != 8 + length + end:
            raise UnusableModel(f"{self.path / name} is broken: {size} bytes instead of {8 + length + end}.")
        return header

    def _unreadable(self, name: str, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            raise UnusableModel(f"{self.path / name} is missing.") from None
        raise UnusableModel(f"{self.path / name} cannot be read: {error.strerror or type(error).__name__}.") from None


def shown(value: Any) -> str:
    """A value of a folder's file in an error message: short, and without control characters."""
    text = value if isinstance(value, str) else type(value).__name__
    text = text if text.isascii() and text.isprintable() else ascii(text)
    return text if len(text) <= 120 else f"{text[:100]}..."


def _unique(pairs: Sequence[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it holds {name!r} twice")
    return document
