"""The training loop of all models: seeded by step, resumable, with a progress bar, a log and sample sheets."""

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.muon import Muon

CHECKPOINT_SECONDS = 180


class Trainee(nn.Module):
    """The modules that the loop trains together, and the loss of one step."""

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """The loss of step `step`; every random choice comes from `generator`."""
        raise NotImplementedError

    def look(self, folder: Path, step: int) -> str:
        """Called every few minutes, with the averaged weights: writes a sample sheet, returns a line for the log."""
        return ""


def train(
    trainee: Trainee,
    work: Path,
    *,
    name: str,
    steps: int,
    rate: float,
    average: float = 0.998,
    seed: int = 0,
    look_seconds: float = 600,
    muon: bool = False,
) -> None:
    """Train to the end, from the last checkpoint if there is one. Afterwards the trainee holds the averaged weights.

    The optimizer is AdamW, or with `muon` Muon for the matrices and AdamW for the rest. The learning rate has a short
    warm-up and falls linearly to zero in the last third. A finished run is only loaded. Raises KeyError if the files of
    an earlier run do not fit the trainee.
    """
    work.mkdir(parents=True, exist_ok=True)
    trainee.to(DEVICE)
    finished, checkpoint = work / f"{name}.safetensors", work / f"{name}.checkpoint.pt"
    log_file = work / f"{name}.jsonl"
    weights = {key: p for key, p in trainee.named_parameters() if p.requires_grad}
    if finished.exists():
        _fill(weights, load_file(finished))
        return
    mean = {key: p.detach().clone() for key, p in weights.items()}
    optimizers = _optimizers(list(weights.values()), rate, muon)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=DEVICE, weights_only=True)
        start = state["step"]
        _fill(weights, state["weights"])
        _fill(mean, state["mean"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
    saved = looked = time.monotonic()
    smooth = None
    bar = tqdm(range(start, steps), desc=name, initial=start, total=steps, mininterval=10, dynamic_ncols=True)
    for step in bar:
        loss = trainee.loss(step, torch.Generator().manual_seed(seed * 10_000_000 + step))
        trainee.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * _pace(step, steps)
            optimizer.step()
        with torch.no_grad():
            keep = min(average, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(mean.values()), list(weights.values()), 1 - keep)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        now = time.monotonic()
        last = step + 1 == steps
        if now - saved > CHECKPOINT_SECONDS and not last:
            state = {
                "step": step + 1,
                "weights": weights,
                "mean": mean,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            _replace(checkpoint, partial(torch.save, state))
            saved = now
        if now - looked > look_seconds or last:
            with _swapped(weights, mean):
                note = trainee.look(work, step + 1)
            with log_file.open("a") as file:
                file.write(json.dumps({"step": step + 1, "loss": round(smooth, 5), "note": note}) + "\n")
            bar.write(f"{name} {step + 1}/{steps} loss {smooth:.4f} {note}")
            looked = time.monotonic()
    _fill(weights, mean)
    _replace(finished, lambda file: save_file({k: v.detach().contiguous() for k, v in weights.items()}, file))
    checkpoint.unlink(missing_ok=True)


def _optimizers(weights: list[nn.Parameter], rate: float, muon: bool) -> list[torch.optim.Optimizer]:
    large = [weight for weight in weights if muon and Muon.fits(weight)]
    chosen = {id(weight) for weight in large}
    rest = [weight for weight in weights if id(weight) not in chosen]
    adam = torch.optim.AdamW(rest, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    return [adam, Muon(large, lr=rate)] if large else [adam]


def _pace(step: int, steps: int) -> float:
    return min(1, (step + 1) / min(100, max(1, steps // 5)), 3 * (steps - step) / steps)


@torch.no_grad()
def _fill(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for key, value in target.items():
        value.copy_(source[key])


class _swapped:
    """A context in which the model has the averaged weights."""

    def __init__(self, weights: Mapping[str, Tensor], mean: Mapping[str, Tensor]) -> None:
        self._weights, self._mean = weights, mean

    def __enter__(self) -> None:
        self._kept = {key: value.detach().clone() for key, value in self._weights.items()}
        _fill(self._weights, self._mean)

    def __exit__(self, *_: object) -> None:
        _fill(self._weights, self._kept)


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file and rename it, so that a run killed while writing leaves the previous file whole."""
    part = file.with_suffix(".part")
    write(part)
    os.replace(part, file)
