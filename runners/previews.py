"""Previews of an unfinished image: its latents times a small matrix (0.1 ms) instead of a decode by the VAE."""

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from runners.families.spec import Matrix
from tasks.preview import PREVIEW_BYTES

EVERY_SECONDS = 1.0
"""The shortest time between two previews of a task."""
_QUALITIES = (70, 50, 30)


def render(latents: Tensor, matrix: Matrix) -> Image.Image:
    """From latents of (channels, height, width): an RGB image with one pixel per latent. Early on it is mostly noise.

    The matrix has one row for each channel, and may have one more row, the bias.
    """
    channels = latents.shape[0]
    rows = torch.tensor(matrix, dtype=torch.float32)
    pixels = latents.float().cpu().permute(1, 2, 0) @ rows[:channels]
    if len(rows) > channels:
        pixels = pixels + rows[channels]
    return Image.fromarray(((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def jpeg(image: Image.Image) -> bytes:
    """The image as a JPEG of at most PREVIEW_BYTES: first the quality is lowered, then the size."""
    while True:
        for quality in _QUALITIES:
            out = BytesIO()
            image.save(out, "JPEG", quality=quality)
            if out.tell() <= PREVIEW_BYTES or max(image.size) <= 8:
                return out.getvalue()
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))
