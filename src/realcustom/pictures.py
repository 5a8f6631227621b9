"""Pictures for people: from and to files, from tensors, sheets of many, and masks made visible."""

from __future__ import annotations

import codecs
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from realcustom.errors import InputError
from realcustom.files import drafted, named, reason, require_place

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**26
"""The most pixels of a picture that is read, 8192 x 8192: as many as a camera of 64 megapixels makes. What has more is
refused by its header, before any of it takes memory."""

_DRAWN = "is drawn in lines and areas, not in pixels; rasterise it first, for example to a PNG"


def read_picture(path: Path) -> Image.Image:
    """Return a picture file, decoded; of one that holds several pictures the first, which is logged.

    Raises:
        InputError: there is no such file, it may not be read, it is no whole picture, or it has more than `MAX_PIXELS`.
    """
    try:
        with path.open("rb") as stream:
            return decode_picture(stream, path)
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no picture {named(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{named(path)} cannot be read as a picture: it is a folder") from None
    except (OSError, ValueError) as error:  # no right to read it, or a name that no file can have
        raise InputError(f"{named(path)} cannot be read as a picture: {reason(error)}") from error


def as_seen(picture: Image.Image) -> Image.Image:
    """Return a picture as viewers show it: upright, and grey (L), RGB or RGBA with 8 bits a channel.

    Raises:
        InputError: it is not whole, has more than `MAX_PIXELS`, or its levels have no known scale.
    """
    name = _name_of(picture)
    _refuse_huge(name, picture.width * picture.height)
    with _silent():
        try:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
        except Exception as error:  # a decoder of foreign bytes may raise anything, and this one may not have run yet
            raise InputError(f"{name} cannot be read: {reason(error)}") from error
        if 0 in upright.size:
            raise InputError(f"{name} is empty: {upright.width} x {upright.height} pixels")
        if upright.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(upright, np.float32) / 257).round().astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise InputError(
                f"{name} cannot be used: its levels (mode {upright.mode}) have no known scale; save it with 8 bits a channel"
            )
        try:
            return upright.convert(_shown_mode(upright))
        except Exception as error:  # what a file says of its palette or its transparency need not fit its pixels
            raise InputError(f"{name} cannot be read: {reason(error)}") from error


def _shown_mode(picture: Image.Image) -> str:
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return "RGBA"
    return "L" if picture.mode in ("1", "L") else "RGB"


def decode_picture(stream: IO[bytes] | io.BytesIO, path: Path) -> Image.Image:
    """Return the picture that the bytes of a stream are.

    Raises:
        InputError: they are none that can be read; `path` is named.
    """
    with _silent():
        try:
            picture = Image.open(stream)
            _refuse_huge(named(path), picture.width * picture.height)
            if picture.format in ("EPS", "WMF"):  # Pillow would have another program draw them
                raise InputError(f"{named(path)} cannot be read as a picture: it {_DRAWN}")
            picture.load()
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_many(named(path), next(iter(re.findall(r"\d+", str(error))), "too many")) from error
        except UnidentifiedImageError as error:
            raise InputError(f"{named(path)} cannot be read as a picture: it {_nature(stream)}") from error
        except Exception as error:  # a decoder of foreign bytes may raise anything
            raise InputError(f"{named(path)} cannot be read as a picture: {reason(error)}") from error
        first = picture.copy() if picture.format == "GIF" else picture  # looking for a second one loses the first
        first.filename = str(path)  # type: ignore[attr-defined]  # as of one that Pillow has opened by its name
        if picture.format != "MPO" and _holds_several(picture):  # a telephone's MPO holds one, and how deep it is
            logger.warning("%s holds more than one picture; its first one is taken", named(path))
    return first


def _name_of(picture: Image.Image) -> str:
    """Return how messages call a picture: by its file, if it is known."""
    path = getattr(picture, "filename", "")
    return named(Path(path)) if path else "the picture"


def _holds_several(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # the first one is whole, whatever comes after it
        return False


def _refuse_huge(name: str, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise _too_many(name, pixels)


def _too_many(name: str, pixels: int | str) -> InputError:
    return InputError(f"{name} has {pixels} pixels; at most {MAX_PIXELS} are read, so make it smaller first")


def _nature(stream: IO[bytes] | io.BytesIO) -> str:
    """Return what a file is that is no picture, going by how it begins: "is a zip archive"."""
    try:
        stream.seek(0)
        head = stream.read(4096)
    except OSError:
        return "is none of the known kinds"
    text = _as_text(head)
    natures = {
        "is empty": not head,
        _DRAWN: text is not None and "<svg" in text.lower(),
        "is a document; save its picture as a PNG": head.startswith(b"%PDF"),
        "is of the kind HEIC or AVIF and cannot be decoded here; save it as PNG or JPEG": head[4:8] == b"ftyp",
        "is a zip archive": head.startswith(b"PK\x03\x04"),
        "is a pickle": head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"),
        "is a safetensors file": head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27,
        "is text": text is not None,
    }
    return next((nature for nature, true in natures.items() if true), "is none of the known kinds")


def _as_text(head: bytes) -> str | None:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Pillow's warnings to itself, and make errors of those about too large pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def require_free(path: Path, *, overwrite: bool) -> None:
    """Check that a PNG can be written under this name without harm to what is there.

    Raises:
        InputError: it does not end in .png or has nothing before that, its folder is not there or cannot be written to, it
            is a folder, or it exists and may not be overwritten.
    """
    try:
        _require_png(path)
        require_place(path, overwrite=overwrite)
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"the folder {named(path.parent)} cannot be written to")
    except OSError as error:  # a name that no file system takes
        raise InputError(f"{named(path)} cannot be written: {reason(error)}") from error


def _require_png(path: Path) -> None:
    if path.name.lower() == ".png":
        raise InputError(f"the output {named(path)} has no name before .png; give it one")
    if path.suffix.lower() != ".png":
        raise InputError(f"the output must end in .png, but is {named(path)}")


def write_picture(picture: Image.Image, path: Path, texts: PngInfo | None = None) -> None:
    """Write a PNG, with texts in it if there are any, that appears under its name only when it is whole.

    Raises:
        InputError: the file cannot be written.
        OSError: the disk is full or broken.
    """
    with drafted(path) as draft, draft.open("xb") as stream:
        picture.save(stream, "PNG", pnginfo=texts)


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


def folded(rows: Sequence[Sequence[Image.Image]], columns: int) -> Image.Image:
    """Return rows of equally many pictures one above the other, long ones in several blocks of as many columns."""
    columns = min(columns, len(rows[0]))
    blocks = [row[start : start + columns] for start in range(0, len(rows[0]), columns) for row in rows]
    return sheet([picture for block in blocks for picture in block], columns=columns)


def cells_of(whole: Image.Image, size: tuple[int, int], gap: int = 2) -> list[Image.Image]:
    """Return the cells of a `sheet` whose pictures have some size, row by row; those that it left white, too."""
    width, height = size
    corners = [
        (left, top)
        for top in range(0, whole.height, height + gap)
        for left in range(0, whole.width, width + gap)
    ]  # fmt: skip
    return [whole.crop((left, top, left + width, top + height)) for left, top in corners]


def labelled_grid(
    pictures: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[str], gap: int = 4
) -> Image.Image:
    """Return one picture that shows all in a grid, row by row, with a label above each column and before each row.

    Args:
        pictures: as many as there are places; every cell has the size of the largest.
        columns: labels, empty ones take no room if all are.
        rows: likewise.
        gap: pixels between the cells.
    """
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    font = ImageFont.load_default(max(10, height // 10))
    line = int(1.3 * font.getbbox("Ag")[3])
    names = [_wrapped(label, 2 * width, font) for label in rows]
    above = max(label.count("\n") + 1 for label in (_wrapped(label, width, font) for label in columns)) * line
    top = above + gap if any(columns) else 0
    left = max(int(font.getlength(part)) for label in names for part in label.split("\n")) + 2 * gap if any(rows) else 0
    whole = Image.new(
        "RGB", (left + len(columns) * (width + gap) - gap, top + len(rows) * (height + gap) - gap), "white"
    )
    draw = ImageDraw.Draw(whole)
    for column, label in enumerate(columns):
        draw.multiline_text((left + column * (width + gap), 0), _wrapped(label, width, font), "black", font)
    for row, label in enumerate(names):
        draw.multiline_text((gap, top + row * (height + gap)), label, "black", font)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, len(columns))
        whole.paste(picture, (left + column * (width + gap), top + row * (height + gap)))
    return whole


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text with line breaks between words, so that its lines are not wider than `width` if that can be."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def mask_picture(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """Return a mask `[h, w]` in [0, 1] as a grey picture of `size`, each cell a plain rectangle: to edit and give back."""
    levels = (mask.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.NEAREST)


def mask_over(picture: Image.Image, mask: Tensor) -> Image.Image:
    """Return the picture with a mask `[h, w]` in [0, 1] laid over it: bright where the subject may act."""
    weight = _grey(mask, picture.size)
    dimmed = Image.blend(picture.convert("RGB"), Image.new("RGB", picture.size, "#202840"), 0.75)
    return Image.composite(picture.convert("RGB"), dimmed, weight)


def evenly(count: int, most: int) -> list[int]:
    """Return the numbers of at most `most` of `count` things, evenly picked from first to last."""
    return torch.linspace(0, count - 1, min(most, count)).round().long().unique().tolist()


def mask_strip(masks: Tensor, side: int, columns: int = 10) -> Image.Image:
    """Return masks `[n, h, w]` in [0, 1], evenly picked from first to last, side by side: the word narrowing over the steps."""
    picked = evenly(len(masks), columns)
    width = round(side * masks.shape[2] / masks.shape[1])
    return sheet([_grey(masks[step], (width, side)).convert("RGB") for step in picked], columns=len(picked))


def _grey(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    levels = (mask.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR)
