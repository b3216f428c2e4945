"""The architectures a runner knows. A new one is an entry here and the file that its `code` names.

`FAMILIES` is keyed by the `_class_name` of a folder's model_index.json. Importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from runners.families.schedulers import PUBLISHED, SAMPLERS
from runners.families.spec import Defaults, FamilySpec, ModelFacts, UnusableModel

if TYPE_CHECKING:
    from runners.families.family import Family

__all__ = ["FAMILIES", "Defaults", "FamilySpec", "ModelFacts", "UnusableModel", "load_family"]

_IMAGE_READERS = ("transformers.CLIPImageProcessor", "transformers.CLIPFeatureExtractor")

FAMILIES: dict[str, FamilySpec] = {
    "StableDiffusionPipeline": FamilySpec(
        name="stable_diffusion",
        code="runners.families.stable_diffusion:StableDiffusion",
        denoiser="unet",
        gpu_dtype="float16",  # the SD 1.x VAE and UNet are used in float16 everywhere
        parts={
            "scheduler": PUBLISHED,
            "text_encoder": ("transformers.CLIPTextModel",),
            "tokenizer": ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast"),
            "unet": ("diffusers.UNet2DConditionModel",),
            "vae": ("diffusers.AutoencoderKL",),
            "feature_extractor": _IMAGE_READERS,
            "image_encoder": ("transformers.CLIPVisionModelWithProjection",),
            "safety_checker": ("stable_diffusion.StableDiffusionSafetyChecker",),
        },
        steps=30,
        guidance_scale=7.5,
        max_prompt_length=2000,  # the text encoder reads 77 tokens, about 350 characters
        full_size=512,
        max_default_images=4,
        samplers=tuple(SAMPLERS),
        without=("safety_checker", "feature_extractor", "image_encoder"),
        load_options={"requires_safety_checker": False},
        refusals={
            "time_cond_proj_dim": "this UNet takes its guidance as an input (a consistency model): not supported."
        },
        latent_rgb=(  # a least-squares fit of the VAE's pixels (-1..1), as published with ComfyUI's latent formats
            (0.3512, 0.2297, 0.3227),
            (0.3250, 0.4974, 0.2350),
            (-0.2829, 0.1762, 0.2721),
            (-0.2120, -0.2616, -0.7177),
        ),
    ),
    "FluxPipeline": FamilySpec(
        name="flux",
        code="runners.families.flux:Flux",
        denoiser="transformer",
        gpu_dtype="bfloat16",  # FLUX was trained in bfloat16 and overflows float16
        parts={
            "scheduler": ("diffusers.FlowMatchEulerDiscreteScheduler",),
            "text_encoder": ("transformers.CLIPTextModel",),
            "text_encoder_2": ("transformers.T5EncoderModel",),
            "tokenizer": ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast"),
            "tokenizer_2": ("transformers.T5Tokenizer", "transformers.T5TokenizerFast"),
            "transformer": ("diffusers.FluxTransformer2DModel",),
            "vae": ("diffusers.AutoencoderKL",),
            "feature_extractor": _IMAGE_READERS,
            "image_encoder": ("transformers.CLIPVisionModelWithProjection",),
        },
        steps=28,
        guidance_scale=3.5,
        max_prompt_length=3000,  # T5 reads 512 tokens, about 2,500 characters
        full_size=1024,
        size=1024,
        patch=2,
        max_default_images=2,
        own_sampler="flow_euler",
        without=("image_encoder", "feature_extractor"),
        latent_rgb=(  # also from ComfyUI's latent formats
            (-0.0346, 0.0244, 0.0681),
            (0.0034, 0.0210, 0.0687),
            (0.0275, -0.0668, -0.0433),
            (-0.0174, 0.0160, 0.0617),
            (0.0859, 0.0721, 0.0329),
            (0.0004, 0.0383, 0.0115),
            (0.0405, 0.0861, 0.0915),
            (-0.0236, -0.0185, -0.0259),
            (-0.0245, 0.0250, 0.1180),
            (0.1008, 0.0755, -0.0421),
            (-0.0515, 0.0201, 0.0011),
            (0.0428, -0.0012, -0.0036),
            (0.0817, 0.0765, 0.0749),
            (-0.1264, -0.0522, -0.1103),
            (-0.0280, -0.0881, -0.0499),
            (-0.1262, -0.0982, -0.0778),
            (-0.0329, -0.0718, -0.0851),
        ),
    ),
}


def load_family(pipe: Any, facts: ModelFacts) -> Family:
    """The family's class, built around a loaded pipeline."""
    module, _, name = facts.spec.code.partition(":")
    family: Family = getattr(import_module(module), name)(pipe, facts)
    return family
