"""A model folder becomes a pipeline on its device, ready to be stepped."""

import logging
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from config.settings import Settings
from runners import acceleration
from runners.families import Family, load_family
from runners.loras import LoraManager
from runners.model_folder import ModelFolder, UnusableModel

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# FLUX was trained in bfloat16 and overflows float16; the SD 1.x VAE and UNet are used in float16 everywhere.
_GPU_DTYPE = {"FluxPipeline": torch.bfloat16, "StableDiffusionPipeline": torch.float16}
_WITHOUT: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
}
_BYTES_A_PIXEL = 6000
"""Upper estimate of what one pixel's forward takes on a GPU: 1.2 GB at 512x512 (SD, float16, guided), 5 GB at 1024x1024
(FLUX, bfloat16), published figures; RUNNER_PIXEL_BUDGET overrules it."""
_ROWS = {"cpu": 4, "cuda": 8, "mps": 2}
"""Default-sized pictures at once, at most: beyond, a batch gains nothing and every picture waits for all."""


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    folder: ModelFolder
    family: Family
    adapters: LoraManager
    acceleration: dict[str, str]
    pixel_budget: int


def load(folder: ModelFolder, settings: Settings) -> Model:
    """Load everything. Raises UnusableModel with a sentence that names the folder."""
    device = _device(settings.runner_device)
    dtype = _dtype(settings.runner_dtype, device, folder.class_name)
    _quiet()
    try:
        pipe = getattr(diffusers, folder.class_name).from_pretrained(
            folder.path,
            local_files_only=True,
            use_safetensors=True,
            variant=folder.variant,
            dtype=dtype,
            **_WITHOUT.get(folder.class_name, {}),
            **acceleration.load_options(folder.class_name, settings),
        )
        pipe.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise UnusableModel(f"{folder.path} cannot be loaded: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    adapters = LoraManager(pipe, folder.loras)
    try:
        family = load_family(pipe, folder)
        accelerated = acceleration.apply(pipe, settings)
    except (ValueError, UnusableModel) as error:
        raise UnusableModel(f"{folder.path}: {error}") from error
    accelerated |= {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
    # Whatever is set, one picture of the default size must fit, or nothing could ever be made.
    budget = max(settings.runner_pixel_budget, family.width * family.height)
    if not settings.runner_pixel_budget:
        budget = _budget(device, family)
    log.info("loaded %s on %s as %s, room for %d pixels", folder.path, device, dtype, budget)
    return Model(folder, family, adapters, accelerated, budget)


def _quiet() -> None:
    """What the libraries warn of is checked by ourselves or does not concern us; their bars are noise in a log."""
    for library in (diffusers.utils.logging, transformers.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(wanted: str, device: torch.device, class_name: str) -> torch.dtype:
    if wanted != "auto":
        return _DTYPES[wanted]
    return torch.float32 if device.type == "cpu" else _GPU_DTYPE[class_name]


def _budget(device: torch.device, family: Family) -> int:
    one = family.width * family.height
    most = one * _ROWS.get(device.type, 1)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        most = min(most, int(0.8 * free / _BYTES_A_PIXEL))
    return max(one, most)
