"""Measures a miniature: it draws held-out prompts with other seeds than in training, and the judge classifies them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tools.miniatures.train.judge import look_all
from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIZES, caption, random_scenes
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


def held_out_prompts(n: int, seed: int = 5) -> tuple[list[str], list[dict[str, str]]]:
    """Full captions of single objects in combinations that no training picture had, and the labels of each."""
    scenes = random_scenes(n, seed, held_out=True)
    labels = [
        {
            "background": COLOURS[int(scenes.background[i])],
            "colour": COLOURS[int(scenes.colour[i, 0])],
            "shape": SHAPES[int(scenes.shape[i, 0])],
            "place": tuple(PLACES)[int(scenes.place[i, 0])],
            "size": tuple(SIZES)[int(scenes.size[i, 0])],
        }
        for i in range(n)
    ]
    return [caption(scenes, i, random.Random(0), full=True) for i in range(n)], labels


def seeds(n: int, first: int = 70_000) -> list[int]:
    """Seeds for n pictures."""
    return list(range(first, first + n))


def accuracy(pictures: Tensor, labels: Sequence[dict[str, str]]) -> dict[str, float]:
    """The percentage of pictures that show what the caption says, for each part of it."""
    seen = look_all(pictures)
    return {
        part: 100 * sum(getattr(s, part) == label[part] for s, label in zip(seen, labels, strict=True)) / len(seen)
        for part in PARTS
    }


def as_text(scores: dict[str, float]) -> str:
    """The scores as one line for the log."""
    return " ".join(f"{part} {score:.0f}%" for part, score in scores.items())


def glance(paint: Painter, file: Path, n: int = 32, steps: int | None = None) -> str:
    """A quick check while training: accuracy on n prompts, and the pictures on a sheet."""
    prompts, labels = held_out_prompts(n)
    pictures = paint(prompts, seeds(n), steps=steps)
    save_sheet(pictures, file, columns=16)
    return as_text(accuracy(pictures, labels))


def negative_prompt_effect(paint: Painter, n: int = 60) -> float:
    """The percentage of picture pairs in which a negative prompt removes what it names.

    The prompt leaves the object's colour or shape open. The negative prompt names the colour or shape that the same
    seed showed without a negative prompt.
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
    """The style of pictures in numbers: the share of the area that the object covers, the brightness of the border
    (0..1), and the percentages that the judge classifies as outline and as night."""
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
