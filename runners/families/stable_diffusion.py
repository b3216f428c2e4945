"""Stable Diffusion 1.x and 2.x: a UNet that takes one timestep per row, guided by a negative half."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from runners.families import schedulers
from runners.families.family import Inputs
from runners.families.sample import Conditioning, Conditions, Sample, predict
from runners.families.spec import ModelFacts


class StableDiffusion:
    """See runners.families.family.Family."""

    def __init__(self, pipe: Any, facts: ModelFacts) -> None:
        """Around a loaded StableDiffusionPipeline."""
        self.pipe = pipe
        self._channels = facts.latent_channels

    def encode(self, inputs: Inputs) -> Conditioning:
        """Prompt and negative prompt through the text encoder; guidance of 1 or less means no negative half."""
        request = inputs.request
        guided = request.guidance_scale > 1
        positive, negative = self.pipe.encode_prompt(
            request.prompt, self.pipe.device, 1, guided, request.negative_prompt if guided else None
        )
        return Conditioning(
            {"encoder_hidden_states": positive},
            {"encoder_hidden_states": negative} if guided else None,
            request.guidance_scale,
        )

    def begin(self, inputs: Inputs, conditioning: Conditioning) -> Sample:
        """Noise of (1, channels, height / 8, width / 8) from a CPU generator: the same on every device."""
        request = inputs.request
        generator = torch.Generator("cpu").manual_seed(inputs.seed)
        scheduler = schedulers.make(request.scheduler, self.pipe.scheduler)
        scheduler.set_timesteps(request.steps, device=self.pipe.device)
        factor = self.pipe.vae_scale_factor
        shape = (1, self._channels, request.height // factor, request.width // factor)
        noise = randn_tensor(shape, generator=generator, device=self.pipe.device, dtype=self.pipe.unet.dtype)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        return Sample(
            width=request.width,
            height=request.height,
            latents=noise * scheduler.init_noise_sigma,
            timesteps=scheduler.timesteps,
            scheduler=scheduler,
            conditioning=conditioning,
            step_options={"generator": generator} if takes_generator else {},
        )

    def predict(self, samples: Sequence[Sample]) -> list[Tensor]:
        """One forward of the UNet."""
        scaled = [sample.scheduler.scale_model_input(sample.latents, sample.timestep) for sample in samples]
        return predict(samples, scaled, self._forward)

    def _forward(self, latents: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
        noise: Tensor = self.pipe.unet(latents, timesteps, **conditions, return_dict=False)[0]
        return noise

    def decode(self, sample: Sample) -> Image:
        """Latents through the VAE."""
        vae = self.pipe.vae
        pixels = vae.decode(sample.latents / vae.config.scaling_factor, return_dict=False)[0]
        image: Image = self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def latents(self, sample: Sample) -> Tensor:
        """See Family."""
        return sample.latents[0]
