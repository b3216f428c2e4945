"""The two miniatures as shipped: small, safe, ordinary model folders that draw what their prompts name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusionPipeline

from tools.miniatures.train import flux, sd
from tools.miniatures.train.measure import accuracy, held_out_prompts, seeds, style
from tools.miniatures.train.report import folder_bytes

FOLDERS = Path(__file__).parents[3] / "model_cache"
KINDS = {"sd-mini": (StableDiffusionPipeline, sd), "flux-mini": (FluxPipeline, flux)}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest) -> Path:
    return FOLDERS / request.param


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


@pytest.fixture(scope="module")
def paint(folder: Path, pipe: Any) -> Any:
    return KINDS[folder.name][1].painter(pipe)


def test_a_folder_is_small_and_has_only_safetensors(folder: Path) -> None:
    assert folder_bytes(folder) <= 12_000_000
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {".safetensors", ".json", ".txt"}


def test_a_miniature_is_an_ordinary_pipeline_with_its_own_defaults(folder: Path, pipe: Any) -> None:
    assert type(pipe) is KINDS[folder.name][0]
    defaults = json.loads((folder / "defaults.json").read_text())
    assert (defaults["width"], defaults["height"]) == (64, 64)
    assert KINDS[folder.name][1].DEFAULTS.items() <= defaults.items()


def test_a_miniature_draws_what_its_prompt_names(paint: Any) -> None:
    prompts, scenes = held_out_prompts(30)
    scores = accuracy(paint(prompts, seeds(30), steps=8), scenes)
    # The targets (98, 95 and 90 % of 300, docs/models.md), less what 30 pictures may miss by chance.
    assert scores["background"] >= 96 and scores["colour"] >= 90 and scores["shape"] >= 86


def test_the_loras_of_a_miniature_change_its_images(folder: Path, pipe: Any, paint: Any) -> None:
    prompts, _ = held_out_prompts(10)
    plain = style(paint(prompts, seeds(10), steps=8))
    try:
        for name in ("outline", "night"):
            pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors", adapter_name=name)
        drawn = {}
        for name in ("outline", "night"):
            pipe.set_adapters([name], [1.0])
            drawn[name] = style(paint(prompts, seeds(10), steps=8))
    finally:
        pipe.unload_lora_weights()
    assert drawn["outline"]["outline"] >= plain["outline"] + 40
    assert drawn["night"]["night"] >= 75
    assert drawn["night"]["border brightness"] < 0.5 * plain["border brightness"]
