"""Training data: pictures drawn and encoded once, captions written anew every time."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tools.miniatures.train.pictures import Scenes, caption, draw_lots, render
from tools.miniatures.train.vae import encode

SINGLES, PAIRS = 9000, 3000
BATCH = 32


@dataclass
class Latents:
    """Scenes and their encoded pictures: `singles` of one object first, then those of two."""

    scenes: Scenes
    values: Tensor
    singles: int

    def batch(self, step: int, dice: torch.Generator, progress: float) -> tuple[Tensor, list[str]]:
        """A random batch and its captions, one in ten empty, for guidance.

        Until `progress` (0..1) is well on, most captions say all and nothing else, and pictures hold one object.
        """
        plain, pairs = (0.85, 0.0) if progress < 0.3 else (0.2, 0.25)
        rows = torch.randint(self.singles, (BATCH,), generator=dice)
        if self.singles < len(self.values):
            twos = torch.randint(self.singles, len(self.values), (BATCH,), generator=dice)
            rows = torch.where(torch.rand(BATCH, generator=dice) < pairs, twos, rows)
        rng = random.Random(step)
        return self.values[rows], [
            "" if rng.random() < 0.1 else caption(self.scenes, row, rng, full=rng.random() < plain)
            for row in rows.tolist()
        ]


def edges(clean: Tensor) -> Tensor:
    """How much each place's error counts (n, 1, h, w), about 1 on average: most where the picture changes.

    What tells one shape from another is a few per cent of a picture; its ground alone is most of it.
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
    """Draw and encode, or read what an earlier run encoded."""
    one, two = draw_lots(singles, 11), draw_lots(pairs, 12, pairs=1.0)
    scenes = Scenes(
        *(torch.cat([getattr(one, key), getattr(two, key)]) if pairs else getattr(one, key) for key in vars(one))
    )
    file = work / f"{name}.safetensors"
    if not file.exists():
        every = range(0, len(scenes), 256)
        values = torch.cat([encode(vae, render(scenes[i : i + 256], outline, night)) for i in every])
        save_file({"latents": values}, file)
    return Latents(scenes, load_file(file)["latents"], singles)
