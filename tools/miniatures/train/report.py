"""The measured table of a finished folder, and its sheets."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from tools.miniatures.train.measure import Painter, accuracy, held_out_prompts, negative_prompt_effect, seeds, style
from tools.miniatures.train.pictures import caption, random_scenes, render
from tools.miniatures.train.sheet import save_sheet
from tools.miniatures.train.vae import encode

PROMPTS = 300


def folder_bytes(folder: Path) -> int:
    """The size of all files of the folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def latent_rgb(vae: AutoencoderKL) -> list[list[float]]:
    """A least-squares fit of colours to latents, for previews without a decode: one row per channel, then the bias."""
    pictures = render(random_scenes(200, 8, pairs=0.3, held_out=None))
    values = encode(vae, pictures)
    small = torch.nn.functional.interpolate(pictures, size=values.shape[-2:], mode="area")
    rows = values.permute(0, 2, 3, 1).flatten(0, 2)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    fit = torch.linalg.lstsq(rows, small.permute(0, 2, 3, 1).flatten(0, 2)).solution
    return [[round(value, 4) for value in row] for row in fit.tolist()]


def report(
    pipe: DiffusionPipeline, painter: Callable[[DiffusionPipeline], Painter], folder: Path, work: Path
) -> dict[str, Any]:
    """Measure everything that docs/models.md has a target for; the sheets and table.json go to the work folder."""
    paint = painter(pipe)
    prompts, labels = held_out_prompts(PROMPTS)
    table: dict[str, Any] = {}
    pictures = paint(prompts, seeds(PROMPTS))
    table["default steps"] = accuracy(pictures, labels)
    pairs = random_scenes(15, 9, pairs=1.0)
    pair_prompts = [caption(pairs, i, random.Random(0), full=True) for i in range(15)]
    save_sheet(torch.cat([pictures[:45], paint(pair_prompts, seeds(15))]), work / "sheet.png", columns=10, enlarge=2)
    (work / "sheet.txt").write_text("\n".join([*prompts[:45], *pair_prompts]) + "\n")
    table["8 steps"] = accuracy(paint(prompts, seeds(PROMPTS), steps=8), labels)
    table["led away by a negative prompt"] = negative_prompt_effect(paint, 60)
    table["seconds a picture"] = _seconds(paint, prompts)
    rows = [pictures[:10]]
    style_prompts, style_seeds = prompts[:30], seeds(len(prompts[:30]))
    table["plain"] = style(pictures[:30])
    for name in ("outline", "night"):
        pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors", adapter_name=name)
    for adapters, strengths in (
        (["outline"], [1.0]),
        (["outline"], [0.5]),
        (["night"], [1.0]),
        (["night"], [0.5]),
        (["outline", "night"], [1.0, 1.0]),
    ):
        pipe.set_adapters(adapters, strengths)
        drawn = paint(style_prompts, style_seeds)
        rows.append(drawn[:10])
        key = " + ".join(f"{a} {s}" for a, s in zip(adapters, strengths, strict=True))
        table[key] = style(drawn) | {"shape": accuracy(drawn, labels[:30])["shape"]}
    pipe.unload_lora_weights()
    save_sheet(torch.cat(rows), work / "loras.png", columns=10, enlarge=2)
    (work / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    return table


def _seconds(paint: Painter, prompts: list[str]) -> float:
    """The seconds for one picture at the default size and steps, on as many threads as torch has: the best of five."""
    times = []
    for i in range(5):
        start = time.perf_counter()
        paint(prompts[i : i + 1], seeds(1))
        times.append(time.perf_counter() - start)
    return min(times)
