"""Pictures for people: tensors to pictures, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Return `b` pictures of `pixels [b, 3, h, w]` in [-1, 1]."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in levels]


def sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Return one picture that shows all, row by row; every cell has the size of the first."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % columns * (width + gap), place // columns * (height + gap)))
    return whole
