"""The two LoRAs of each miniature: the same captions, learnt on pictures of another style."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from model_cache.train.loop import Trainee, train

STYLES = {"outline": {"outline": True}, "night": {"night": True}}
RANK = 8
STEPS = 300
RATE = 2e-3


class LoraTrainee(Trainee):
    """Any trainee, of which only the LoRA learns."""

    def __init__(self, inner: Trainee) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, step: int, dice: torch.Generator) -> Tensor:
        return self.inner.loss(step + 7_000_000, dice)

    def look(self, folder: Path, step: int) -> str:
        return self.inner.look(folder, step)


def train_lora(
    pipe: DiffusionPipeline, part: str, layers: list[str], inner: Trainee, style: str, work: Path, folder: Path
) -> None:
    """Train one style on pipe's `part` (unet or transformer) into <folder>/<style>.safetensors; pipe stays as is."""
    denoiser = getattr(pipe, part)
    for module in (denoiser, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if module is not None:
            module.requires_grad_(False)
    torch.manual_seed(4)
    # alpha equal to the rank: the file then means strength 1 to every loader, also to one that finds no alpha in it.
    denoiser.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, init_lora_weights="gaussian"), adapter_name=style
    )
    train(LoraTrainee(inner), work / style, name=f"lora-{style}", steps=STEPS, rate=RATE, average=0.99, seed=4)
    weights = {
        key: value.half().contiguous() for key, value in get_peft_model_state_dict(denoiser, adapter_name=style).items()
    }
    pipe.save_lora_weights(
        folder, **{f"{part}_lora_layers": weights}, weight_name=f"{style}.safetensors", safe_serialization=True
    )
    denoiser.unload_lora()
