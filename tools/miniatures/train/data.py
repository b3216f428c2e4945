"""Training data: each picture is drawn and encoded once, and gets a new caption every time it is used."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tools.miniatures.train.pictures import Scenes, caption, random_scenes, render
from tools.miniatures.train.vae import encode

SINGLES, PAIRS = 9000, 3000
BATCH = 32


@dataclass
class Latents:
    """Scenes and their encoded pictures. The first `singles` have one object, the others have two."""

    scenes: Scenes
    values: Tensor
    singles: int

    def batch(self, step: int, generator: torch.Generator, progress: float) -> tuple[Tensor, list[str]]:
        """A random batch and its captions. One caption in ten is empty, as classifier-free guidance needs.

        Until `progress` (0..1) reaches 0.3, most captions are complete and free of other words, and all pictures have
        one object. Later, one picture in four has two.
        """
        plain, pairs = (0.85, 0.0) if progress < 0.3 else (0.2, 0.25)
        rows = torch.randint(self.singles, (BATCH,), generator=generator)
        if self.singles < len(self.values):
            twos = torch.randint(self.singles, len(self.values), (BATCH,), generator=generator)
            rows = torch.where(torch.rand(BATCH, generator=generator) < pairs, twos, rows)
        rng = random.Random(step)
        return self.values[rows], [
            "" if rng.random() < 0.1 else caption(self.scenes, row, rng, full=rng.random() < plain)
            for row in rows.tolist()
        ]


def edges(clean: Tensor) -> Tensor:
    """The weight of the error at each latent, of shape (n, 1, h, w) and about 1 on average: largest at edges.

    The edges that distinguish two shapes are a few per cent of a picture; most of it is background.
    """
    change = (clean - F.avg_pool2d(clean, 5, 1, 2, count_include_pad=False)).abs().mean(1, keepdim=True)
    return (1 + 3 * (change / change.mean((2, 3), keepdim=True)).clamp(max=3)) / 4


def latents(
    vae: AutoencoderKL,
    work: Path,
    name: str,
    singles: int = SINGLES,
    pairs: int = PAIRS,
    outline: bool = False,
    night: bool = False,
) -> Latents:
    """Draw and encode the pictures, or read those that an earlier run encoded."""
    of_one, of_two = random_scenes(singles, 11), random_scenes(pairs, 12, pairs=1.0)
    scenes = Scenes(
        *(
            torch.cat([getattr(of_one, key), getattr(of_two, key)]) if pairs else getattr(of_one, key)
            for key in vars(of_one)
        )
    )
    file = work / f"{name}.safetensors"
    if not file.exists():
        starts = range(0, len(scenes), 256)
        values = torch.cat([encode(vae, render(scenes[i : i + 256], outline, night)) for i in starts])
        save_file({"latents": values}, file)
    return Latents(scenes, load_file(file)["latents"], singles)
