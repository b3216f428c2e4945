"""Many pictures on one sheet."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def save_sheet(pictures: Tensor, file: Path, columns: int, enlarge: int = 1) -> None:
    """Write pictures (n, 3, height, width) in -1..1 to one image file, row by row, with thin grey lines between."""
    pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    n, _, height, width = pixels.shape
    rows = -(-n // columns)
    sheet = torch.full((3, rows * (height + 2) + 2, columns * (width + 2) + 2), 128, dtype=torch.uint8)
    for i, picture in enumerate(pixels):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[:, top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    file.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.LANCZOS).save(file, optimize=True)
