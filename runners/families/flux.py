"""FLUX.1: a transformer over packed latents, guidance as an input, negative prompts by true guidance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from runners.families.family import Inputs
from runners.families.sample import Conditioning, Conditions, Sample, predict
from runners.families.spec import ModelFacts

TRUE_CFG_SCALE = 2.0
"""How strongly a negative prompt pushes: FluxPipeline's `true_cfg_scale`. A request's `guidance_scale` is the embedded
guidance, so this scale belongs to the model (`true_cfg_scale` in defaults.json). It doubles the work of a step."""
MAX_SEQUENCE_LENGTH = 512


class Flux:
    """See runners.families.family.Family."""

    def __init__(self, pipe: Any, facts: ModelFacts) -> None:
        """Around a loaded FluxPipeline."""
        self.pipe = pipe
        self._channels = facts.latent_channels
        self._sequence_length = facts.defaults.max_sequence_length or MAX_SEQUENCE_LENGTH
        self._true_cfg_scale = facts.defaults.true_cfg_scale or TRUE_CFG_SCALE

    def encode(self, inputs: Inputs) -> Conditioning:
        """The prompt through CLIP (pooled) and T5 (sequence); a negative prompt, if any, likewise."""
        request = inputs.request
        guided = bool(request.negative_prompt)
        return Conditioning(
            self._conditions(request.prompt, request.guidance_scale),
            self._conditions(request.negative_prompt, request.guidance_scale) if guided else None,
            self._true_cfg_scale,
        )

    def _conditions(self, prompt: str, guidance_scale: float) -> Conditions:
        device = self.pipe.device
        sequence, pooled, _ = self.pipe.encode_prompt(prompt, device=device, max_sequence_length=self._sequence_length)
        conditions = {"encoder_hidden_states": sequence, "pooled_projections": pooled}
        if self.pipe.transformer.config.guidance_embeds:
            conditions["guidance"] = torch.full([1], guidance_scale, device=device, dtype=torch.float32)
        return conditions

    def begin(self, inputs: Inputs, conditioning: Conditioning) -> Sample:
        """Packed noise of (1, tokens, 4 x channels); `mu` shifts the times by the image's own number of tokens."""
        request, pipe, factor = inputs.request, self.pipe, self.pipe.vae_scale_factor
        generator = torch.Generator("cpu").manual_seed(inputs.seed)
        height, width = 2 * (request.height // (factor * 2)), 2 * (request.width // (factor * 2))
        dtype = conditioning.positive["encoder_hidden_states"].dtype
        noise = randn_tensor((1, self._channels, height, width), generator=generator, device=pipe.device, dtype=dtype)
        latents = pipe._pack_latents(noise, 1, self._channels, height, width)
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        config = scheduler.config
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / request.steps, request.steps)
        mu = calculate_shift(
            latents.shape[1],
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
        timesteps, _ = retrieve_timesteps(scheduler, request.steps, pipe.device, sigmas=sigmas, mu=mu)
        scheduler.set_begin_index(0)  # so that the scheduler need not search for it on the device
        return Sample(request.width, request.height, latents, timesteps, scheduler, conditioning)

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        """One forward of the transformer."""
        width, height = samples[0].width, samples[0].height
        side = self.pipe.vae_scale_factor * 2
        latents = samples[0].latents
        image_ids = self.pipe._prepare_latent_image_ids(1, height // side, width // side, latents.device, latents.dtype)

        def forward(packed: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
            text_ids = torch.zeros(
                conditions["encoder_hidden_states"].shape[1], 3, device=packed.device, dtype=packed.dtype
            )
            velocity: Tensor = self.pipe.transformer(
                hidden_states=packed,
                timestep=timesteps.to(packed.dtype) / 1000,
                txt_ids=text_ids,
                img_ids=image_ids,
                **{"guidance": None, **conditions},
                return_dict=False,
            )[0]
            return velocity

        return predict(samples, [sample.latents for sample in samples], forward)

    def _unpacked(self, sample: Sample) -> Tensor:
        unpacked: Tensor = self.pipe._unpack_latents(
            sample.latents, sample.height, sample.width, self.pipe.vae_scale_factor
        )
        return unpacked

    def decode(self, sample: Sample) -> Image:
        """Latents through the VAE."""
        vae = self.pipe.vae
        latents = self._unpacked(sample) / vae.config.scaling_factor + vae.config.shift_factor
        pixels = vae.decode(latents, return_dict=False)[0]
        image: Image = self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def latents(self, sample: Sample) -> Tensor:
        """See Family."""
        return self._unpacked(sample)[0]
