"""The LoRAs of a model's folder. All are loaded at start; each forward activates exactly those of its images."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import LoraUnusable
from tasks.task import Lora

logger = logging.getLogger(__name__)

LoraSet = tuple[tuple[str, float], ...]
"""Names and weights, sorted: equal for images that may share a forward."""


def lora_set(loras: Sequence[Lora]) -> LoraSet:
    """The LoRA set of a request. A LoRA of weight 0 is left out."""
    return tuple(sorted((lora.name, lora.weight) for lora in loras if lora.weight))


class LoraManager:
    """The adapters of one pipeline."""

    def __init__(self, pipe: Any, files: Mapping[str, Path]) -> None:
        """Load every file. A LoRA that does not fit the model is logged as an error and not offered."""
        self._pipe = pipe
        self._adapters: dict[str, str] = {}
        self._active: LoraSet | None = ()
        for index, (name, file) in enumerate(sorted(files.items())):
            adapter = f"lora_{index}"  # peft's own names allow no dots
            try:
                with warnings.catch_warnings():
                    # peft warns when a model gets a second adapter. `activate` decides which adapters are active.
                    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
                    pipe.load_lora_weights(
                        str(file.parent),
                        weight_name=file.name,
                        adapter_name=adapter,
                        local_files_only=True,
                        use_safetensors=True,
                    )
            except Exception as error:  # noqa: BLE001 - a LoRA that the libraries cannot read must not stop the model
                logger.error("the LoRA %s cannot be used: %s", file, error)
                continue
            if adapter not in {name for names in pipe.get_list_adapters().values() for name in names}:
                logger.error("the LoRA %s cannot be used: it fits no part of this model", file)
                continue
            self._adapters[name] = adapter
        if self._adapters:
            pipe.disable_lora()

    @property
    def names(self) -> tuple[str, ...]:
        """The LoRAs that a request may name."""
        return tuple(self._adapters)

    def activate(self, loras: LoraSet) -> None:
        """Activate exactly these LoRAs. Raises LoraUnusable."""
        if loras == self._active:
            return
        self._active = None
        if not loras:
            self._pipe.disable_lora()
        else:
            missing = [name for name, _ in loras if name not in self._adapters]
            if missing:
                raise LoraUnusable(f"This runner has no LoRA {missing[0]!r}.")
            names = [self._adapters[name] for name, _ in loras]
            self._pipe.enable_lora()
            self._pipe.set_adapters(names, [weight for _, weight in loras])
            active = self._pipe.get_active_adapters()
            if set(active) != set(names):
                raise LoraUnusable(f"{', '.join(name for name, _ in loras)}: only {len(active)} became active.")
        self._active = loras
