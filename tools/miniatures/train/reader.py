"""Trains a text encoder on captions alone, before the denoiser: its vectors must hold everything that a caption names.

The encoders of large models are pretrained too. Training an encoder through the denoiser's loss alone takes far longer.
"""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.loop import Trainee, train
from tools.miniatures.train.pictures import COLOURS, PLACES, SHAPES, SIZES, caption, random_scenes

STEPS = 1000
BATCH = 64
KINDS = (SHAPES, COLOURS, tuple(SIZES), tuple(PLACES))
ANSWERS = [len(COLOURS) + 1] + [len(kind) + 1 for kind in KINDS] * 2


def caption_labels(text: str) -> list[int]:
    """The labels of a caption: background, then shape, colour, size and place of each object; 0 for a missing part."""
    words = text.lower().replace(",", " ").split()
    background = 0
    if "background" in words:
        end = words.index("background")
        background = 1 + COLOURS.index(words[end - 1])
        words = words[: end - 3] + words[end + 1 :]
    parts = " ".join(words).split(" and ")
    labels = [background]
    for i in range(2):
        part = parts[i].split() if i < len(parts) else []
        labels += [next((1 + kind.index(word) for word in part if word in kind), 0) for kind in KINDS]
    return labels


def teach(encoder: nn.Module, tokenizer: Any, length: int, work: Path, name: str) -> None:
    """Train the encoder alone, or load the weights of an earlier run."""
    torch.manual_seed(6)
    train(Reader(encoder, tokenizer, length), work, name=name, steps=STEPS, rate=2e-3, average=0.99, seed=6, muon=True)


class Reader(Trainee):
    """An encoder with one linear classifier for each label, applied at every position that attends to the whole
    caption: all positions, or for a causal encoder the end token's."""

    def __init__(self, encoder: nn.Module, tokenizer: Any, length: int) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.length = encoder, tokenizer, length
        self.ask = nn.Linear(128, sum(ANSWERS))
        self.causal = tokenizer.bos_token_id is not None

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Scores at every position, and which positions count."""
        ids = self.tokenizer(
            captions, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids.to(DEVICE)
        counts = (ids == self.tokenizer.eos_token_id) if self.causal else torch.ones_like(ids, dtype=torch.bool)
        return self.ask(self.encoder(ids)[0]), counts

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        captions = _captions(BATCH, step)
        scores, counts = self(captions)
        truth = torch.tensor([caption_labels(text) for text in captions], device=DEVICE)
        total = torch.zeros((), device=DEVICE)
        for i, part in enumerate(scores.split(ANSWERS, -1)):
            wrong = F.cross_entropy(part.transpose(1, 2), truth[:, i : i + 1].expand(counts.shape), reduction="none")
            total = total + (wrong * counts).sum() / counts.sum()
        return total

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> str:
        captions = _captions(500, 88_888_888)
        scores, counts = self(captions)
        truth = torch.tensor([caption_labels(text) for text in captions], device=DEVICE)
        right = [
            ((part.argmax(-1) == truth[:, i : i + 1]) & counts).sum() / counts.sum()
            for i, part in enumerate(scores.split(ANSWERS, -1))
        ]
        return "read " + " ".join(f"{100 * share.item():.0f}%" for share in right)


def _captions(n: int, seed: int) -> list[str]:
    scenes, rng = random_scenes(n, 2_000_000 + seed, pairs=0.35, held_out=None), random.Random(seed)
    return ["" if rng.random() < 0.03 else caption(scenes, i, rng) for i in range(n)]
