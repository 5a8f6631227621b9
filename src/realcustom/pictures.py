"""Pictures for people: from and to files, from tensors, sheets of many, and masks made visible."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from realcustom.errors import InputError


def read_picture(path: Path) -> Image.Image:
    """Return a picture file, decoded.

    Raises:
        InputError: there is no such file, or it is no whole picture.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}") from None
    except Exception as error:  # a decoder of foreign bytes may raise anything
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    return picture


def as_seen(picture: Image.Image) -> Image.Image:
    """Return a picture as viewers show it: upright, and with 8 bits a channel.

    Raises:
        InputError: it is not whole, or its levels have no known scale.
    """
    try:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except Exception as error:  # as above: it may have been opened and not yet decoded
        raise InputError(f"the picture cannot be read: {error}") from error
    if 0 in upright.size:
        raise InputError(f"the picture is empty: {upright.width} x {upright.height} pixels")
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright, np.float32) / 257).round().astype(np.uint8))
    if upright.mode in ("I", "F"):
        raise InputError(
            f"the picture's levels (mode {upright.mode}) have no known scale; save it with 8 bits a channel"
        )
    return upright


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears under its name only when it is whole.

    Raises:
        InputError: the file cannot be written.
    """
    draft = None
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".png")
        with os.fdopen(handle, "wb") as stream:
            picture.save(stream, "PNG")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, path)
    except BaseException as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


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


def mask_over(picture: Image.Image, mask: Tensor) -> Image.Image:
    """Return the picture with a mask `[h, w]` in [0, 1] laid over it: bright where the subject may act."""
    weight = _grey(mask, picture.size)
    dimmed = Image.blend(picture.convert("RGB"), Image.new("RGB", picture.size, "#202840"), 0.75)
    return Image.composite(picture.convert("RGB"), dimmed, weight)


def mask_strip(masks: Tensor, side: int, columns: int = 10) -> Image.Image:
    """Return masks `[n, h, w]` in [0, 1], evenly picked from first to last, side by side: the word narrowing over the steps."""
    picked = torch.linspace(0, len(masks) - 1, min(columns, len(masks))).round().long().unique()
    width = round(side * masks.shape[2] / masks.shape[1])
    return sheet([_grey(masks[step], (width, side)).convert("RGB") for step in picked.tolist()], columns=len(picked))


def _grey(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    levels = (mask.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
