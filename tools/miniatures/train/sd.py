"""sd-mini: a StableDiffusionPipeline of 4 M weights. Its UNet is trained with a frozen text encoder (`reader`)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.miniatures.train.data import Latents, edges
from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.loop import Trainee
from tools.miniatures.train.measure import Painter, glance
from tools.miniatures.train.reader import teach
from tools.miniatures.train.words import CLIP_LENGTH, clip_tokenizer

STEPS, RATE = 3200, 3e-3
LATE = 0.85
"""The exponent of the random times of the training. Below 1 it favours noisy times, where the layout is decided."""
DEFAULTS = {"width": 64, "height": 64, "min_side": 64, "max_side": 64, "steps": 20, "guidance_scale": 3.0}
PART = "unet"
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A text encoder with two layers of width 128 and random weights. FLUX takes its pooled output at the end token, so
    the configuration must hold the end token's id."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def learn_to_read(pipe: StableDiffusionPipeline, work: Path) -> None:
    """Replace the text encoder by a new one that is trained on captions alone, and freeze it."""
    torch.manual_seed(7)
    pipe.register_modules(text_encoder=new_text_encoder(pipe.tokenizer))
    teach(pipe.text_encoder, pipe.tokenizer, CLIP_LENGTH, work, "words")
    pipe.text_encoder.requires_grad_(False)


def new_pipeline(vae: AutoencoderKL) -> StableDiffusionPipeline:
    """The whole pipeline; its UNet and text encoder have random weights."""
    torch.manual_seed(2)
    tokenizer = clip_tokenizer()
    # Nearly all weights work at 8x8 latents, where they cost least. Every block also gets the pooled words, together
    # with the time (addition_embed_type), because cross attention learns the words slowly.
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )
    # Zero terminal SNR and trailing timesteps: without them, few steps never reach a pure black or white background.
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=new_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class SdTrainee(Trainee):
    """Learns to predict the velocity at a random time."""

    def __init__(self, pipe: StableDiffusionPipeline, data: Latents, steps: int = 1) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipe.unet, pipe.text_encoder
        self.pipe, self.data, self.steps = pipe, data, steps

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        clean, captions = self.data.batch(step, generator, step / self.steps)
        noise = torch.randn(clean.shape, generator=generator)
        time = (1000 * torch.rand(len(clean), generator=generator) ** LATE).long()
        clean, noise, time = clean.to(DEVICE), noise.to(DEVICE), time.to(DEVICE)
        noisy = self.pipe.scheduler.add_noise(clean, noise, time)
        ids = self.pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        ids = ids.to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            guess = self.unet(noisy, time, self.text_encoder(ids).last_hidden_state).sample
        error = guess.float() - self.pipe.scheduler.get_velocity(clean, noise, time)
        return (error.square() * edges(clean)).mean()

    def look(self, folder: Path, step: int) -> str:
        return glance(painter(self.pipe), folder / f"sheet-{step:05d}.png", steps=10)


def styled(pipe: StableDiffusionPipeline, data: Latents) -> SdTrainee:
    """The trainee of a LoRA."""
    return SdTrainee(pipe, data)


def painter(pipe: StableDiffusionPipeline) -> Painter:
    """A painter of this pipeline at its defaults."""

    def paint(
        prompts: Sequence[str],
        seeds: Sequence[int],
        negatives: Sequence[str] | None = None,
        steps: int | None = None,
        size: int = 32,
    ) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        parts = []
        for i in range(0, len(prompts), size):
            parts.append(
                pipe(
                    prompt=prompts[i : i + size],
                    negative_prompt=negatives[i : i + size] if negatives else None,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[i : i + size]],
                    num_inference_steps=steps or DEFAULTS["steps"],
                    guidance_scale=DEFAULTS["guidance_scale"],
                    output_type="pt",
                ).images
            )
        return torch.cat(parts).float().cpu() * 2 - 1

    return paint
