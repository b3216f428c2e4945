"""Stable Diffusion 1.x and 2.x: a UNet that takes one timestep per row, guided by a negative half."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from runners import previews
from runners.families import schedulers
from runners.families.sample import Conditioning, Inputs, Sample, predict
from runners.model_folder import Defaults, UnusableModel
from tasks.run import RunRequest


class StableDiffusion:
    """See runners.families.Family."""

    name = "stable_diffusion"
    max_prompt_length = 2000
    """Characters. The text encoder reads 77 tokens, about 350 characters, and ignores the rest."""

    def __init__(self, pipe: Any, defaults: Defaults) -> None:
        """Around a loaded StableDiffusionPipeline. Raises UnusableModel."""
        if pipe.unet.config.time_cond_proj_dim is not None:
            raise UnusableModel("this UNet takes its guidance as an input (a consistency model): not supported.")
        size = pipe.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.pipe = pipe
        self.size_multiple = int(pipe.vae_scale_factor)
        self.width = defaults.width or int(width * pipe.vae_scale_factor)
        self.height = defaults.height or int(height * pipe.vae_scale_factor)
        self.steps = defaults.steps or 30
        self.guidance_scale = 7.5 if defaults.guidance_scale is None else defaults.guidance_scale
        self.max_pixels = 4 * self.width * self.height
        self.schedulers = schedulers.names_for(pipe.scheduler)
        self._rgb = previews.LatentRgb(defaults.latent_rgb or previews.STABLE_DIFFUSION, self._channels)

    @property
    def _channels(self) -> int:
        return int(self.pipe.unet.config.in_channels)

    def encode(self, request: RunRequest) -> Conditioning:
        """Prompt and negative prompt through the text encoder; guidance of 1 or less means no negative half."""
        guided = request.guidance_scale > 1
        positive, negative = self.pipe.encode_prompt(
            request.prompt, self.pipe.device, 1, guided, request.negative_prompt if guided else None
        )
        return Conditioning(
            {"encoder_hidden_states": positive},
            {"encoder_hidden_states": negative} if guided else None,
            request.guidance_scale,
        )

    def begin(self, request: RunRequest, conditioning: Conditioning, seed: int) -> Sample:
        """Noise of (1, channels, height / 8, width / 8) from a CPU generator: the same on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
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

    def _forward(self, latents: Tensor, timesteps: Tensor, inputs: Inputs) -> Tensor:
        noise: Tensor = self.pipe.unet(latents, timesteps, **inputs, return_dict=False)[0]
        return noise

    def decode(self, sample: Sample) -> Image:
        """Latents through the VAE."""
        vae = self.pipe.vae
        pixels = vae.decode(sample.latents / vae.config.scaling_factor, return_dict=False)[0]
        image: Image = self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def preview(self, sample: Sample) -> Image:
        """One pixel per latent. Early on it is mostly noise."""
        return self._rgb.image(sample.latents[0])
