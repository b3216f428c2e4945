"""The two LoRAs of each miniature. Each is trained with the same captions on pictures of another style."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModelMixin
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from tools.miniatures.train.loop import Trainee, train

STYLES = ("outline", "night")
RANK = 8
STEPS = 900
RATE = 2e-3


class LoraTrainee(Trainee):
    """Trains one LoRA on pictures of its style. In every third step the LoRAs that were trained before it are active
    too, on pictures of all their styles together: two LoRAs that are trained apart disturb each other."""

    def __init__(self, denoiser: ModelMixin, style: str, alone: Trainee, before: list[str], together: Trainee | None):
        super().__init__()
        self.alone, self.together = alone, together
        self.denoiser, self.style, self.before = denoiser, style, before

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        if self.together is not None and step % 3 == 0:
            self.denoiser.set_adapter([*self.before, self.style])
            return self.together.loss(step + 7_000_000, generator)
        self.denoiser.set_adapter(self.style)
        return self.alone.loss(step + 7_000_000, generator)

    def look(self, folder: Path, step: int) -> str:
        self.denoiser.set_adapter(self.style)
        return self.alone.look(folder, step)


def train_loras(
    pipe: DiffusionPipeline,
    part: str,
    layers: list[str],
    styled_trainee: Callable[..., Trainee],
    work: Path,
    folder: Path,
) -> None:
    """Train a LoRA of every style on pipe's `part` (unet or transformer), as <folder>/<style>.safetensors. The pipe
    itself does not change.

    `styled_trainee(outline=..., night=...)` returns a trainee of the pipe on pictures of these styles.
    """
    denoiser = getattr(pipe, part)
    for module in (denoiser, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if module is not None:
            module.requires_grad_(False)
    before: list[str] = []
    for style in STYLES:
        torch.manual_seed(4)
        # alpha equals the rank, so that a loader that finds no alpha in the file also applies it at strength 1.
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, init_lora_weights="gaussian")
        denoiser.add_adapter(config, adapter_name=style)
        together = styled_trainee(**dict.fromkeys([*before, style], True)) if before else None
        trainee = LoraTrainee(denoiser, style, styled_trainee(**{style: True}), list(before), together)
        train(trainee, work / style, name=f"lora-{style}", steps=STEPS, rate=RATE, average=0.99, seed=4)
        trained = get_peft_model_state_dict(denoiser, adapter_name=style)
        weights = {key: value.half().contiguous() for key, value in trained.items()}
        pipe.save_lora_weights(
            folder, **{f"{part}_lora_layers": weights}, weight_name=f"{style}.safetensors", safe_serialization=True
        )
        before.append(style)
    denoiser.unload_lora()
