"""A picture on its way from noise, and one forward for many of them. Knows nothing of any one architecture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
"""Named inputs of the denoiser, each with a leading dimension of 1."""
Forward = Callable[[Tensor, Tensor, Inputs], Tensor]
"""(latents (n, ...), timesteps (n,), inputs) -> predictions (n, ...)."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What steers a picture. `negative` is None without classifier-free guidance, whose scale is `scale`."""

    positive: Inputs
    negative: Inputs | None = None
    scale: float = 1.0


@dataclass(slots=True, eq=False)
class Sample:
    """One unfinished picture. Its scheduler is its own, since schedulers keep state between steps."""

    width: int
    height: int
    latents: Tensor
    timesteps: Tensor
    scheduler: Any
    conditioning: Conditioning
    step_options: dict[str, Any] = field(default_factory=dict)
    step: int = 0

    @property
    def steps(self) -> int:
        """How often the denoiser runs, which some schedulers make more than the steps asked for."""
        return len(self.timesteps)

    @property
    def shape(self) -> tuple[int, int, bool]:
        """What must be equal between samples of one forward. Not the latents' shape: FLUX packs 64x128 and 128x64
        alike, but gives their patches other positions."""
        return (self.width, self.height, self.conditioning.negative is not None)

    @property
    def timestep(self) -> Tensor:
        """The time of the next step, a scalar tensor."""
        return self.timesteps[self.step]

    def advance(self, prediction: Tensor) -> None:
        """One step of the scheduler along `prediction`."""
        dtype = self.latents.dtype
        moved = self.scheduler.step(prediction, self.timestep, self.latents, **self.step_options, return_dict=False)[0]
        self.latents = moved.to(dtype)
        self.step += 1


def predict(samples: Sequence[Sample], latents: Sequence[Tensor], forward: Forward) -> list[Tensor]:
    """One forward for all samples, classifier-free guidance (arXiv:2207.12598) included: the negative half first, as
    the pipelines do, then `negative + scale * (positive - negative)` with each sample's own scale."""
    positive = [sample.conditioning.positive for sample in samples]
    negative = [sample.conditioning.negative for sample in samples if sample.conditioning.negative is not None]
    conditions = [*negative, *positive]
    copies = len(conditions) // len(samples)
    inputs = {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}
    times = torch.stack([sample.timestep.float() for sample in samples] * copies)
    predictions = list(forward(torch.cat(list(latents) * copies), times, inputs).split(1))
    if not negative:
        return predictions
    halves = zip(samples, predictions[: len(samples)], predictions[len(samples) :], strict=True)
    return [away + sample.conditioning.scale * (towards - away) for sample, away, towards in halves]


def all_finite(latents: Sequence[Tensor]) -> list[bool]:
    """For each: has it neither NaN nor infinity? One wait for the device, whatever their number."""
    return torch.stack([torch.isfinite(latent).all() for latent in latents]).tolist()
