"""The contract between the step engine and an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from runners.families.sample import Conditioning, Sample
    from tasks.runner_api import Input, RunRequest


@dataclass(frozen=True)
class Inputs:
    """Everything that determines one image: the request, the image's seed, and the files that the request names."""

    request: RunRequest
    seed: int
    files: Mapping[str, Input] = field(default_factory=dict)

    def with_seed(self, seed: int) -> Inputs:
        """The same for another image of the task."""
        return replace(self, seed=seed)


class Family(Protocol):
    """One architecture around one loaded pipeline: encode -> begin -> (predict, advance)* -> decode.

    Built as `Family(pipe, facts)`, with the pipeline and the `ModelFacts` of its folder. Not safe to call from two
    threads at a time. Sizes are in pixels.
    """

    pipe: Any

    def encode(self, inputs: Inputs) -> Conditioning:
        """The prompts as the denoiser takes them, for all images of a task. The LoRAs of the request must be active."""

    def begin(self, inputs: Inputs, conditioning: Conditioning) -> Sample:
        """An image before its first step."""

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        """One forward for all `samples`, whose `shape_key` is equal: a guided prediction for each. Changes nothing."""

    def decode(self, sample: Sample) -> Image:
        """The finished image."""

    def latents(self, sample: Sample) -> Tensor:
        """The latents as (channels, height, width), for a preview."""
