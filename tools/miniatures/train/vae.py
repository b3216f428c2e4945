"""The VAEs: AutoencoderKL with 4 channels at scale 4 (sd-mini), and with 16 channels at scale 8 (flux-mini)."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from tools.miniatures.train.device import DEVICE
from tools.miniatures.train.loop import Trainee, train
from tools.miniatures.train.pictures import SIDE, Scenes, random_scenes, render
from tools.miniatures.train.sheet import save_sheet

STEPS = 2000
BATCH = 16
SHAPES = {"sd-mini": ((16, 32, 64), 4), "flux-mini": ((16, 32, 64, 64), 16)}


def trained_vae(model: str, work: Path) -> AutoencoderKL:
    """The model's VAE with its measured scale (and shift). Trains it first, unless an earlier run did."""
    torch.manual_seed(1)
    trainee = VaeTrainee(*SHAPES[model])
    train(trainee, work, name="vae", steps=STEPS, rate=2e-3, average=0.995, seed=1)
    vae = trainee.vae.eval().requires_grad_(False)
    latents = encode(vae, styled(512, 77), raw=True)
    shift = latents.mean().item() if model == "flux-mini" else 0.0
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    if model == "flux-mini":
        vae.register_to_config(shift_factor=round(shift, 4))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, raw: bool = False) -> Tensor:
    """Latents as the denoiser takes them, shifted and scaled; `raw`: as the encoder returns them."""
    parts = [vae.encode(part.to(vae.device)).latent_dist.mode().cpu() for part in pictures.split(64)]
    latents = torch.cat(parts)
    return latents if raw else (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures in -1..1."""
    return torch.cat(
        [
            vae.decode(part.to(vae.device) / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample.cpu()
            for part in latents.split(64)
        ]
    ).clamp(-1, 1)


def styled(n: int, seed: int) -> Tensor:
    """Pictures of all styles. The VAE must learn the styles of the LoRAs too, or it could not decode them."""
    scenes: Scenes = random_scenes(n, seed, pairs=0.3, held_out=None)
    outline, night = torch.rand(2, n, generator=torch.Generator().manual_seed(seed)) < 0.25
    return render(scenes, outline, night)


class VaeTrainee(Trainee):
    """Trains a VAE. The error near edges counts four times, so that edges become sharp."""

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        levels = len(widths)
        self.vae = AutoencoderKL(
            sample_size=SIDE,
            latent_channels=channels,
            block_out_channels=widths,
            norm_num_groups=8,
            mid_block_add_attention=False,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
        preserve_signal(self.vae)

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        pictures = styled(BATCH, 1_000_000 + step).to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            posterior = self.vae.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(DEVICE)
            again = self.vae.decode(posterior.mean + posterior.std * noise).sample
        error = (again.float() - pictures).abs()
        divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return (error * (1 + 3 * _edges(pictures))).mean() + 3e-4 * divergence

    @torch.no_grad()
    def look(self, folder: Path, step: int) -> str:
        pictures = styled(60, 78)
        again = decode(self.vae, encode(self.vae, pictures))
        save_sheet(
            torch.stack([pictures[:30], again[:30]], 1).flatten(0, 1), folder / f"vae-{step:05d}.png", columns=10
        )
        return f"error {(again - pictures).abs().mean() * 127.5:.2f}/255"


def _edges(pictures: Tensor) -> Tensor:
    """1 near edges, 0 on the plain background."""
    across = F.max_pool2d(pictures, 3, 1, 1) + F.max_pool2d(-pictures, 3, 1, 1)
    return across.amax(1, keepdim=True).clamp(0, 1)


def preserve_signal(model: nn.Module) -> None:
    """Initialize with unit-gain convolutions, zero biases and weak residual branches. This halves the early error."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight, gain=0.1 if name.endswith("conv2") else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
