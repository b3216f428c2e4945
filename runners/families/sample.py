"""An unfinished image, and one forward for many of them. Independent of any architecture."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Conditions = dict[str, Tensor]
"""The inputs of the denoiser other than latents and timestep, by name, each with a leading dimension of 1."""
Forward = Callable[[Tensor, Tensor, Conditions], Tensor]
"""(latents (n, ...), timesteps (n,), conditions) -> predictions (n, ...)."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The encoded prompts of an image. `scale` is that of classifier-free guidance; without it, `negative` is None."""

    positive: Conditions
    negative: Conditions | None = None
    scale: float = 1.0


@dataclass(slots=True, eq=False)
class Sample:
    """One unfinished image. It has a scheduler of its own, because schedulers keep state between steps."""

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
        """How often the denoiser runs. For some schedulers this is more than the steps of the request."""
        return len(self.timesteps)

    @property
    def shape_key(self) -> tuple[Hashable, ...]:
        """What must be equal between samples of one forward: size, guidance, and the shapes of the conditions, because
        prompts of different length do not fit into one tensor.

        The latents' shape is not enough: FLUX packs 64x128 and 128x64 alike, but their patches have other positions.
        """
        layout = tuple(tuple(value.shape) for value in self.conditioning.positive.values())
        return (self.width, self.height, self.conditioning.negative is not None, layout)

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next step, a scalar tensor."""
        return self.timesteps[self.step]

    def advance(self, prediction: Tensor) -> None:
        """One step of the scheduler along `prediction`."""
        dtype = self.latents.dtype
        moved = self.scheduler.step(prediction, self.timestep, self.latents, **self.step_options, return_dict=False)[0]
        self.latents = moved.to(dtype)
        self.step += 1


def predict(samples: Sequence[Sample], latents: Sequence[Tensor], forward: Forward) -> list[Tensor]:
    """One forward for all samples, with classifier-free guidance (arXiv:2207.12598).

    The negative half comes first, as in the pipelines. With each sample's own scale, the prediction is
    `negative + scale * (positive - negative)`.
    """
    positive = [sample.conditioning.positive for sample in samples]
    negative = [sample.conditioning.negative for sample in samples if sample.conditioning.negative is not None]
    conditions = [*negative, *positive]
    copies = len(conditions) // len(samples)
    stacked = {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}
    times = torch.stack([sample.timestep.float() for sample in samples] * copies)
    predictions = list(forward(torch.cat(list(latents) * copies), times, stacked).split(1))
    if not negative:
        return predictions
    halves = zip(samples, predictions[: len(samples)], predictions[len(samples) :], strict=True)
    return [without + sample.conditioning.scale * (with_ - without) for sample, without, with_ in halves]


def all_finite(latents: Sequence[Tensor]) -> list[bool]:
    """For each of the latents, whether it is free of NaN and infinity. Waits for the device once, not once for each."""
    return torch.stack([torch.isfinite(latent).all() for latent in latents]).tolist()
