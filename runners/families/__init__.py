"""The architectures we can run, found by `_class_name` of a folder's model_index.json. Importing this costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from runners.families.sample import Conditioning, Sample
    from runners.model_folder import ModelFolder
    from tasks.run import RunRequest

FAMILIES = {
    "StableDiffusionPipeline": "runners.families.stable_diffusion:StableDiffusion",
    "FluxPipeline": "runners.families.flux:Flux",
}


class Family(Protocol):
    """One architecture around one loaded pipeline: encode -> begin -> (predict, advance)* -> decode.

    Not safe to call from two threads at a time. Sizes are in pixels.
    """

    name: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    size_multiple: int
    max_pixels: int
    max_prompt_length: int
    schedulers: tuple[str, ...]
    """The model's own scheduler comes first."""
    pipe: Any

    def encode(self, request: RunRequest) -> Conditioning:
        """The prompts as the denoiser wants them. The LoRAs of the request must be active."""

    def begin(self, request: RunRequest, conditioning: Conditioning, seed: int) -> Sample:
        """A picture that is nothing but noise yet."""

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        """One forward for all `samples` (equal size, equal guidedness): a guided prediction each. Changes nothing."""

    def decode(self, sample: Sample) -> Image:
        """The finished picture."""

    def preview(self, sample: Sample) -> Image:
        """A small, rough look at an unfinished picture, one pixel per latent."""


def load_family(pipe: Any, folder: ModelFolder) -> Family:
    """The family of the folder's class around its loaded pipeline."""
    module, _, name = FAMILIES[folder.class_name].partition(":")
    family: Family = getattr(import_module(module), name)(pipe, folder.defaults)
    return family
