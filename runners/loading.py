"""Loads a model folder as a pipeline on its device, ready to be stepped."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from config.settings import Settings
from runners import acceleration
from runners.clean_copy import clean_copy
from runners.families import ModelFacts, UnusableModel, load_family
from runners.families.family import Family
from runners.loras import LoraManager
from runners.model_folder import ModelFolder

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BYTES_A_PIXEL = 6000
"""An upper estimate of the GPU memory that one pixel takes in a forward. Published figures: 1.2 GB at 512x512 (SD,
float16, guided), 5 GB at 1024x1024 (FLUX, bfloat16). RUNNER_PIXEL_BUDGET overrides it."""
_ROWS = {"cpu": 4, "cuda": 8, "mps": 2}
"""The most images of the default size at once, by device. A larger batch is not faster, and all its images wait for the
whole batch."""


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    folder: ModelFolder
    family: Family
    adapters: LoraManager
    acceleration: dict[str, str]
    pixel_budget: int

    @property
    def facts(self) -> ModelFacts:
        """The facts of the model's folder."""
        return self.folder.facts


def load(folder: ModelFolder, settings: Settings) -> Model:
    """Load the pipeline with its LoRAs onto the device. Raises UnusableModel with a sentence that names the folder."""
    facts, spec = folder.facts, folder.facts.spec
    device = _device(settings.runner_device)
    dtype = _dtype(settings.runner_dtype, device, spec.gpu_dtype)
    _quiet()
    pipe = _pipeline(folder, dtype, acceleration.load_options(spec.denoiser, settings))
    try:
        pipe.to(device)
    except (ValueError, RuntimeError) as error:
        raise UnusableModel(f"{folder.path} cannot be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    for sentence in folder.unusable_loras:
        logger.error("a LoRA cannot be used: %s", sentence)
    adapters = LoraManager(pipe, folder.loras)
    try:
        family = load_family(pipe, facts)
        accelerated = acceleration.apply(getattr(pipe, spec.denoiser), settings)
    except (ValueError, UnusableModel) as error:
        raise UnusableModel(f"{folder.path}: {error}") from error
    accelerated |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
    # One image of the default size must fit even if the setting is smaller; otherwise the runner could make no image.
    budget = max(settings.runner_pixel_budget, facts.width * facts.height)
    if not settings.runner_pixel_budget:
        budget = _budget(device, facts)
    logger.info("loaded %s on %s as %s, room for %d pixels", folder.path, device, dtype, budget)
    return Model(folder, family, adapters, accelerated, budget)


def _pipeline(folder: ModelFolder, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The pipeline, from a copy of the folder without anything that the libraries need not see."""
    spec, copy = folder.facts.spec, None
    try:
        with clean_copy(folder) as copy:
            return getattr(diffusers, folder.class_name).from_pretrained(
                copy,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                **dict.fromkeys(spec.without),
                **spec.load_options,
                **options,
            )
    except BaseException as error:
        # The libraries raise whatever they like about a folder that is wrong; those written in Rust raise a
        # PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        sentence = " ".join(str(error).split()).replace(str(copy), str(folder.path))
        raise UnusableModel(f"{folder.path} cannot be loaded: {sentence[:500]}") from error


def _quiet() -> None:
    """Turn off the libraries' warnings and progress bars. The runner itself checks what they warn about, and a log must
    not hold progress bars."""
    for library in (diffusers.utils.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _device(setting: str) -> torch.device:
    if setting != "auto":
        return torch.device(setting)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(setting: str, device: torch.device, gpu_dtype: str) -> torch.dtype:
    if setting != "auto":
        return _DTYPES[setting]
    return torch.float32 if device.type == "cpu" else _DTYPES[gpu_dtype]


def _budget(device: torch.device, facts: ModelFacts) -> int:
    """The pixel budget that follows from the device, at least one image of the default size."""
    image = facts.width * facts.height
    budget = image * _ROWS.get(device.type, 1)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget = min(budget, int(0.8 * free / _BYTES_A_PIXEL))
    return max(image, budget)
