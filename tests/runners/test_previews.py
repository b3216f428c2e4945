"""Previews are small, however large and noisy the image is."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from runners.previews import jpeg, render
from tasks.preview import PREVIEW_BYTES


@pytest.mark.parametrize("side", [1, 16, 128, 512])
def test_a_preview_fits_its_limit_even_of_noise(side: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (side, 2 * side, 3), dtype=np.uint8)
    data = jpeg(Image.fromarray(noise))
    assert len(data) <= PREVIEW_BYTES
    shown = Image.open(BytesIO(data))
    assert shown.format == "JPEG"
    assert shown.width >= shown.height


def test_a_small_image_keeps_its_size() -> None:
    assert Image.open(BytesIO(jpeg(Image.new("RGB", (64, 48), "red")))).size == (64, 48)


@pytest.mark.parametrize("bias", [(), ((0.5, 0.5, 0.5),)])
def test_latents_become_colors_by_the_matrix(bias: tuple[tuple[float, float, float], ...]) -> None:
    latents = torch.tensor([[[1.0, -1.0]], [[0.0, 0.0]]])
    image = render(latents, ((1.0, 0.0, -1.0), (0.0, 1.0, 0.0), *bias))
    assert image.size == (2, 1)
    grey = 191 if bias else 128
    assert image.getpixel((0, 0)) == (255, grey, 64 if bias else 0)
