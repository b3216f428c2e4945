"""flux-mini: a FluxPipeline trained like FLUX.1-dev: by flow matching, then by distilling guidance into an input."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tools.miniatures.train import sd
from tools.miniatures.train.data import Latents, edges
from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.loop import Trainee
from tools.miniatures.train.measure import Painter, glance
from tools.miniatures.train.reader import teach
from tools.miniatures.train.words import T5_LENGTH, clip_tokenizer, t5_tokenizer

STEPS, RATE = 4000, 2e-3
LATE = 0.5
"""Shifts the random times of the training towards noise, where the layout of the picture is decided."""
GUIDED_STEPS = 300
GUIDED_RATE = 3e-4
GUIDANCE = (1.0, 5.0)
DEFAULTS = {
    "width": 64,
    "height": 64,
    "min_side": 64,
    "max_side": 64,
    "steps": 20,
    "guidance_scale": 3.0,
    "max_sequence_length": T5_LENGTH,
    "true_cfg_scale": 3.0,
}
PART = "transformer"
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out", "ff.net.0.proj", "ff.net.2"]


def new_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """A text encoder with two layers of width 128 and random weights."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=128,
            d_kv=32,
            num_heads=4,
            num_layers=2,
            d_ff=256,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            feed_forward_proj="gated-gelu",
        )
    )


def learn_to_read(pipe: FluxPipeline, work: Path) -> None:
    """Replace both text encoders by new ones that are trained on captions alone, and freeze them."""
    sd.learn_to_read(pipe, work)
    torch.manual_seed(7)
    pipe.register_modules(text_encoder_2=new_t5(pipe.tokenizer_2))
    teach(pipe.text_encoder_2, pipe.tokenizer_2, T5_LENGTH, work, "words-2")
    pipe.text_encoder_2.requires_grad_(False)


def new_pipeline(vae: AutoencoderKL) -> FluxPipeline:
    """The whole pipeline; its transformer and both text encoders have random weights."""
    torch.manual_seed(3)
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return FluxPipeline(
        vae=vae,
        text_encoder=sd.new_text_encoder(clip),
        tokenizer=clip,
        text_encoder_2=new_t5(t5),
        tokenizer_2=t5,
        transformer=transformer,
        scheduler=scheduler,
    )


def pack(latents: Tensor) -> Tensor:
    """Latents of (n, 16, 8, 8) as the transformer takes them: 16 tokens of 64 numbers."""
    return FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])


class FluxTrainee(Trainee):
    """Learns to predict noise minus picture at a random time. `GuidedTrainee` gives the guidance input its meaning."""

    def __init__(
        self, pipe: FluxPipeline, data: Latents, steps: int = 1, guidance: tuple[float, float] = GUIDANCE
    ) -> None:
        super().__init__()
        self.transformer, self.text_encoder, self.text_encoder_2 = (
            pipe.transformer,
            pipe.text_encoder,
            pipe.text_encoder_2,
        )
        self.pipe, self.data, self.steps, self.guidance = pipe, data, steps, guidance
        self.image_ids = FluxPipeline._prepare_latent_image_ids(1, 4, 4, DEVICE, torch.float32)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        clean, captions = self.data.batch(step, generator, step / self.steps)
        noisy, time, target = _between(pack(clean), generator)
        guidance = self.sample_guidance(len(clean), generator)
        error = self.guess(self.transformer, noisy, time, guidance, *self.read(captions)).float() - target
        return (error.square() * pack(edges(clean).expand_as(clean)).to(DEVICE)).mean()

    def sample_guidance(self, n: int, generator: torch.Generator) -> Tensor:
        """A random guidance input for each of n pictures."""
        return torch.empty(n).uniform_(*self.guidance, generator=generator).to(DEVICE)

    def read(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """The captions through both text encoders (pooled, sequence), exactly as the pipeline encodes them."""
        ids = self.pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        ids_2 = self.pipe.tokenizer_2(
            captions, padding="max_length", max_length=T5_LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return self.text_encoder(ids.to(DEVICE)).pooler_output, self.text_encoder_2(ids_2.to(DEVICE))[0]

    def guess(
        self,
        transformer: FluxTransformer2DModel,
        noisy: Tensor,
        time: Tensor,
        guidance: Tensor,
        pooled: Tensor,
        text: Tensor,
    ) -> Tensor:
        """The transformer's velocity."""
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return transformer(
                hidden_states=noisy,
                timestep=time,
                guidance=guidance,
                pooled_projections=pooled,
                encoder_hidden_states=text,
                txt_ids=torch.zeros(text.shape[1], 3, device=DEVICE),
                img_ids=self.image_ids,
            ).sample

    def look(self, folder: Path, step: int) -> str:
        return glance(painter(self.pipe), folder / f"sheet-{step:05d}.png", steps=10)


class GuidedTrainee(FluxTrainee):
    """Guidance distillation: learns to predict in one pass what the trained model predicts in two passes with
    classifier-free guidance. The guidance input is the scale."""

    def __init__(self, pipe: FluxPipeline, data: Latents) -> None:
        super().__init__(pipe, data)
        self.teacher = copy.deepcopy(pipe.transformer).requires_grad_(False)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        clean, captions = self.data.batch(step + 5_000_000, generator, 1.0)
        noisy, time, _ = _between(pack(clean), generator)
        guidance = self.sample_guidance(len(clean), generator)
        with torch.no_grad():
            words, empty = self.read(captions), self.read([""])
            twice = [torch.cat([a, b.expand_as(a)]) for a, b in zip(words, empty, strict=True)]
            with_words, without = (
                self.guess(self.teacher, noisy.repeat(2, 1, 1), time.repeat(2), guidance.repeat(2), *twice)
                .float()
                .chunk(2)
            )
            target = without + guidance.view(-1, 1, 1) * (with_words - without)
        return F.mse_loss(self.guess(self.transformer, noisy, time, guidance, *words).float(), target)


def styled(pipe: FluxPipeline, data: Latents) -> FluxTrainee:
    """The trainee of a LoRA. Its guidance input is always 1, which adds no guidance. With other values, training on
    plain pictures would undo the distillation."""
    return FluxTrainee(pipe, data, guidance=(1.0, 1.0))


def _between(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A point between picture and noise at a random (logit-normal) time, that time, and the velocity there: noise minus
    picture."""
    noise = torch.randn(clean.shape, generator=generator)
    time = torch.sigmoid(torch.randn(len(clean), generator=generator) + LATE)
    clean, noise, time = clean.to(DEVICE), noise.to(DEVICE), time.to(DEVICE)
    return torch.lerp(clean, noise, time.view(-1, 1, 1)), time, noise - clean


def painter(pipe: FluxPipeline, guidance: float = DEFAULTS["guidance_scale"], true_cfg: float = 1.0) -> Painter:
    """A painter of this pipeline at its defaults. With `true_cfg` above 1, or with negative prompts, a second pass adds
    classifier-free guidance."""

    def paint(
        prompts: Sequence[str],
        seeds: Sequence[int],
        negatives: Sequence[str] | None = None,
        steps: int | None = None,
        size: int = 64,
    ) -> Tensor:
        pipe.set_progress_bar_config(disable=True)
        scale = DEFAULTS["true_cfg_scale"] if negatives else true_cfg
        parts = []
        for i in range(0, len(prompts), size):
            batch = prompts[i : i + size]
            parts.append(
                pipe(
                    prompt=batch,
                    negative_prompt=negatives[i : i + size] if negatives else [""] * len(batch) if scale > 1 else None,
                    true_cfg_scale=scale,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[i : i + size]],
                    num_inference_steps=steps or DEFAULTS["steps"],
                    guidance_scale=guidance,
                    height=64,
                    width=64,
                    max_sequence_length=T5_LENGTH,
                    output_type="pt",
                ).images
            )
        return torch.cat(parts).float().cpu() * 2 - 1

    return paint
