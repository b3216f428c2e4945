"""A rough look at a picture in the making: latents times a small matrix, no VAE (0.1 ms instead of a decode)."""

from collections.abc import Sequence
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

Matrix = Sequence[Sequence[float]]
"""One row (red, green, blue) per latent channel, and optionally one more row, the bias."""

# Least-squares fits of each VAE's pixels (-1..1) to its latents, as published with ComfyUI's latent formats.
STABLE_DIFFUSION: Matrix = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
FLUX: Matrix = (
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
)


class LatentRgb:
    """A linear map from latents to colours."""

    def __init__(self, matrix: Matrix, channels: int) -> None:
        """Raises ValueError when the matrix is not for that many latent channels."""
        if len(matrix) not in (channels, channels + 1):
            raise ValueError(f"latent_rgb has {len(matrix)} rows; it takes {channels}, or {channels + 1} with a bias.")
        rows = torch.tensor(matrix, dtype=torch.float32)
        self._matrix = rows[:channels]
        self._bias = rows[channels] if len(rows) > channels else torch.zeros(3)

    def image(self, latents: Tensor) -> Image.Image:
        """From (channels, height, width) latents: an RGB picture of that height and width."""
        flat = latents.float().cpu().permute(1, 2, 0) @ self._matrix + self._bias
        return Image.fromarray(((flat / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def jpeg(image: Image.Image) -> bytes:
    """The preview as it is sent."""
    out = BytesIO()
    image.save(out, "JPEG", quality=70)
    return out.getvalue()
