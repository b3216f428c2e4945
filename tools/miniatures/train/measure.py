"""Is it any good? Held-out prompts, other seeds, and the judge."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tools.miniatures.train.judge import look_all
from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIZES, caption, draw_lots
from tools.miniatures.train.sheet import save_sheet


class Painter(Protocol):
    """Draws one picture for each prompt."""

    def __call__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        negatives: Sequence[str] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Pictures (n, 3, 64, 64) in -1..1; `steps` None: the model's default."""


PARTS = ("background", "colour", "shape", "place", "size")


def asked(n: int, seed: int = 5) -> tuple[list[str], list[dict[str, str]]]:
    """Full captions of single objects in combinations that no training picture had, and what each asks for."""
    scenes = draw_lots(n, seed, kept_out=True)
    wanted = [
        {
            "background": COLOURS[int(scenes.background[i])],
            "colour": COLOURS[int(scenes.colour[i, 0])],
            "shape": SHAPES[int(scenes.shape[i, 0])],
            "place": tuple(PLACES)[int(scenes.place[i, 0])],
            "size": tuple(SIZES)[int(scenes.size[i, 0])],
        }
        for i in range(n)
    ]
    return [caption(scenes, i, random.Random(0), full=True) for i in range(n)], wanted


def seeds(n: int, first: int = 70_000) -> list[int]:
    """Seeds for n pictures."""
    return list(range(first, first + n))


def accuracy(pictures: Tensor, wanted: Sequence[dict[str, str]]) -> dict[str, float]:
    """The share of pictures that show what was asked, part by part, in percent."""
    seen = look_all(pictures)
    return {
        part: 100 * sum(getattr(s, part) == w[part] for s, w in zip(seen, wanted, strict=True)) / len(seen)
        for part in PARTS
    }


def in_words(scores: dict[str, float]) -> str:
    """One line for the log."""
    return " ".join(f"{part} {score:.0f}%" for part, score in scores.items())


def glance(paint: Painter, file: Path, n: int = 32, steps: int | None = None) -> str:
    """A quick look while training: accuracy on n prompts, and the pictures on a sheet."""
    prompts, wanted = asked(n)
    pictures = paint(prompts, seeds(n), steps=steps)
    save_sheet(pictures, file, columns=16)
    return in_words(accuracy(pictures, wanted))


def steered(paint: Painter, n: int = 60) -> float:
    """Percent of pairs in which a negative prompt leads away from what it names.

    The prompt leaves the object's colour open, or its shape; the negative names what the same seed showed without it.
    """
    rng = random.Random(6)
    prompts, open_part = [], []
    for i in range(n):
        background, colour = rng.sample(COLOURS, 2)
        part = ("colour", "shape")[i % 2]
        open_part.append(part)
        prompts.append(
            f"a {rng.choice(SHAPES)} on a {background} background"
            if part == "colour"
            else f"a {colour} shape on a {background} background"
        )
    before = look_all(paint(prompts, seeds(n)))
    names: list[str] = [getattr(seen, part) for seen, part in zip(before, open_part, strict=True)]
    negatives = [
        f"a {name} shape" if part == "colour" else f"a {name}" for name, part in zip(names, open_part, strict=True)
    ]
    after = look_all(paint(prompts, seeds(n), negatives=negatives))
    return 100 * sum(getattr(seen, part) != name for seen, part, name in zip(after, open_part, names, strict=True)) / n


@torch.no_grad()
def style(pictures: Tensor) -> dict[str, float]:
    """What a LoRA changes, in numbers: how much of the picture is object, and how bright its border is (0..1)."""
    border = torch.cat([pictures[..., 0], pictures[..., -1], pictures[..., 0, :], pictures[..., -1, :]], -1)
    ground = border.median(-1).values[..., None, None]
    object_share = ((pictures - ground).abs().amax(1) > 0.35).float().mean().item()
    seen = look_all(pictures)
    return {
        "filled": object_share,
        "border brightness": (border.mean().item() + 1) / 2,
        "outline": 100 * sum(s.outline for s in seen) / len(seen),
        "night": 100 * sum(s.night for s in seen) / len(seen),
    }
