"""What the encoder will see of a reference, and whether it is the portrait that it expects: one thing, whole, in the middle.

The subject is told from the background by its transparency if it has any, else by its distance from the colour that the
picture's border has. Of a border of many colours nothing is concluded. All of it is measured, nothing is learnt, so it can
err; it advises and forbids nothing.

Shapes: `h w` cells of a coarse grid over the picture, whose longer side has 64 of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw, ImageFilter

from realcustom.pictures import as_seen
from realcustom.placement import PORTRAIT

CELLS = 64
"""Side of the grid on which the subject is looked for."""

TOLERANCE = 24.0
"""How far a colour may be from the background's and still count as it, in 8-bit levels of RGB: paper, a lit wall, a cloth
without folds. Gravel, grass and bricks go beyond."""

CALM = 0.7
"""Share of the border that must be like the background; of photographs with less the subject is not found rightly."""

SHARP = 0.03
"""Least sharpness. Of 158 photographs and 400 drawings none has less than 0.07. Blurred by half a pixel of the encoder's (one
standard deviation) none has less than this, by a pixel 29 and 55 of 100 have, by one and a half 92, by two 98 or more."""

SMALLEST = 0.6
"""Least share of the picture's side that the subject should take; references in training have 0.7 to 0.95."""

OFF_CENTRE = 0.12
"""How far the subject's middle may lie from the picture's, as a share of its side."""

SECOND = 0.25
"""How large a further thing must be to count as one, as a share of the largest; smaller ones are sparks and shadows."""

SLIMMEST = 3.0
"""How many times a picture may be as long as it is wide."""


@dataclass(frozen=True)
class Outline:
    """Where the subject is in what the encoder sees; all shares are of that square's side or area."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom."""
    fill: float
    """Share of the square that it covers."""
    pixels: int
    """Its longer side in pixels of the picture itself."""
    objects: int
    """How many separate things there are."""
    edges: tuple[str, ...]
    """Edges of the picture that it reaches: "left", "top", "right", "bottom"."""

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box, from the left and from the top."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def extent(self) -> float:
        """The box's longer side."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True)
class Portrait:
    """A reference as the encoder will see it."""

    stored: tuple[int, int]
    """Width and height of the picture before it is turned as its EXIF data say."""
    size: tuple[int, int]
    """Width and height of the picture, upright."""
    side: int
    """Of the square that the encoder sees."""
    padding: float
    """Share of the square that is not the picture."""
    transparent: float
    """Share of the picture that lets through what is behind it, which becomes white."""
    calm: float
    """Share of the picture's border that has the colour of the background."""
    background: str | None
    """Colour of the background, "#rrggbb"; None where there is none that the subject could be told from."""
    sharpness: float | None
    """Variance of the Laplacian over the variance of the grey levels, where the subject is, at the encoder's size; None of
    what has one grey level or is thinner than three pixels there."""
    subject: Outline | None
    """None where none could be told from the background."""

    @property
    def sound(self) -> bool:
        """Whether a picture can have it: sizes above 0, and a subject that has one, in numbers."""
        box = () if self.subject is None else self.subject.box
        thing = self.subject is None or (self.subject.extent > 0 and all(map(math.isfinite, box)))
        return thing and min(*self.stored, *self.size, self.side) > 0

    @property
    def padded(self) -> str:
        """Where the padding is: "left and right", "above and below" or ""."""
        if self.padding == 0:
            return ""
        return "left and right" if self.size[0] < self.size[1] else "above and below"

    @property
    def frame(self) -> tuple[float, float, float]:
        """The subject's frame as `placement` wants it: centre y, centre x and size; a portrait's where it is not known."""
        if self.subject is None:
            return PORTRAIT
        x, y = self.subject.centre
        return y, x, self.subject.extent

    @property
    def crop(self) -> tuple[int, int, int, int] | None:
        """The square that would be the portrait: left, top, right and bottom in pixels of the picture, or beyond it."""
        if self.subject is None:
            return None
        longer = max(self.size)
        half = self.subject.extent * longer / PORTRAIT[2] / 2
        x, y = (
            share * longer - (longer - length) / 2 for share, length in zip(self.subject.centre, self.size, strict=True)
        )
        return round(x - half), round(y - half), round(x + half), round(y + half)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do for a better portrait, a sentence each; empty for a good one."""
        shape = _shape(self)
        if self.background is None:
            found = [_busy(self), _too_small(self), _blurred(self), shape]
        elif self.subject is None:
            found = [_nothing(self), shape]
        else:
            found = [_too_small(self), _blurred(self), _several(self), _cut(self), shape, _badly_framed(self)]
        return tuple(sentence for sentence in found if sentence)

    def lines(self) -> list[str]:
        """Return the figures as people read them, a line each; the advice is not among them."""
        turned = f", turned from {self.stored[0]} x {self.stored[1]}" if self.stored != self.size else ""
        padding = f"{self.padding:.0%} of it padding, {self.padded}" if self.padded else "without padding"
        lines = [
            f"picture: {self.size[0]} x {self.size[1]} pixels{turned}",
            f"encoder: sees {self.side} x {self.side} pixels, {padding}",
        ]
        if self.transparent:
            lines.append(f"transparency: {self.transparent:.0%}, becomes white")
        if self.background:
            lines.append(f"background: {self.background}, {self.calm:.0%} of the border")
        else:
            lines.append(
                f"background: busy, only {self.calm:.0%} of the border is of one colour; the subject could not be told from it"
            )
        if self.subject:
            lines.append(f"subject: {_where(self.subject)}")
        if self.sharpness is not None:
            lines.append(f"sharpness: {self.sharpness:.3f}, where {SHARP} is sharp enough")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and the advice as JSON can hold them."""
        return {**asdict(self), "padded": self.padded, "crop": self.crop, "advice": list(self.advice)}


def examine(picture: Image.Image, side: int) -> Portrait:
    """Return what an encoder of pictures of `side` x `side` pixels will see of a reference.

    Raises:
        InputError: the picture is not whole, too large, or its levels have no known scale.
    """
    upright = as_seen(picture)
    seen = opaque(upright)
    coarse = _grid(seen)
    solid = _solid(upright)
    background, calm, stands_out = _tell(coarse) if solid is None else _tell_cut_out(coarse, solid)
    fitted = fitted_size(upright.size, side)
    things, objects = _things(stands_out) if background else (np.zeros_like(stands_out), 0)
    subject = _subject(things, objects, max(upright.size)) if objects else None
    return Portrait(
        stored=picture.size,
        size=upright.size,
        side=side,
        padding=1 - fitted[0] * fitted[1] / side**2,
        transparent=0.0 if solid is None else 1 - float(solid.mean()),
        calm=calm,
        background=background,
        sharpness=_sharpness(seen.resize(fitted, Image.Resampling.LANCZOS), things),
        subject=subject,
    )


def opaque(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB; what lies behind its transparency is white."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels; the latter two are not part of it."""


def fit_reference(picture: Image.Image, side: int) -> Image.Image:
    """Return the reference as the encoder sees it: a square of `side` pixels, nothing cropped, nothing stretched.

    It is turned as its EXIF data say, transparency becomes white, and the shorter direction is padded with the mean colour
    of the picture's border.

    Raises:
        InputError: the picture is not whole, too large, or its levels have no known scale.
    """
    seen = opaque(as_seen(picture))
    box = fitted_box(seen.size, side)
    fitted = seen.resize(fitted_size(seen.size, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(fitted)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(axis=0)
    square = Image.new("RGB", (side, side), tuple(int(channel) for channel in border))
    square.paste(fitted, box[:2])
    return square


def fitted_box(size: tuple[int, int], side: int) -> Box:
    """Return where a picture of `size` (width, height) lies in the square of `side` pixels into which it is fitted."""
    width, height = fitted_size(size, side)
    left, top = (side - width) // 2, (side - height) // 2
    return left, top, left + width, top + height


def cells_within(box: Box, side: int, cells: int) -> Bool[np.ndarray, " {cells*cells}"]:
    """Return which cells of a grid over a square of `side` pixels a box touches, in row order."""
    edges = np.arange(cells + 1) * side / cells
    left, top, right, bottom = box
    rows, columns = ((edges[1:] > first) & (edges[:-1] < last) for first, last in ((top, bottom), (left, right)))
    return (rows[:, None] & columns[None]).reshape(-1)


def fitted_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the width and height of a picture that is shrunk or enlarged until its longer side is `side`."""
    width, height = (max(1, round(length * side / max(size))) for length in size)
    return width, height


def _grid(picture: Image.Image) -> Float[np.ndarray, "h w 3"]:
    shrunk = picture.resize(fitted_size(picture.size, CELLS), Image.Resampling.BOX)
    return np.asarray(shrunk, np.float32)


def _solid(picture: Image.Image) -> Bool[np.ndarray, "h w"] | None:
    """Return which cells are more solid than transparent; None if nearly all are."""
    if picture.mode != "RGBA":
        return None
    alpha = picture.getchannel("A").resize(fitted_size(picture.size, CELLS), Image.Resampling.BOX)
    solid = np.asarray(alpha) > 127
    return None if solid.mean() > 0.99 else solid


def _tell_cut_out(
    colours: Float[np.ndarray, "h w 3"], solid: Bool[np.ndarray, "h w"]
) -> tuple[str, float, Bool[np.ndarray, "h w"]]:
    """Tell a cut-out from the white that it will lie on: as `_tell`. One that is as white as that does not stand out."""
    distance = np.linalg.norm(colours - 255, axis=2)
    visible = bool(solid.any()) and float(np.percentile(distance[solid], 95)) > TOLERANCE
    return "#ffffff", 1.0, solid if visible else np.zeros_like(solid)


def _tell(colours: Float[np.ndarray, "h w 3"]) -> tuple[str | None, float, Bool[np.ndarray, "h w"]]:
    """Tell what stands out from the background, whose colour may change evenly from one edge to another.

    Returns:
        The background's colour, or None if the border is too thin or of too many colours; the share of the border that has
        it; and the cells that differ.
    """
    border = np.ones(colours.shape[:2], bool)
    border[2:-2, 2:-2] = False
    if min(border.shape) < 8:
        return None, 0.0, np.zeros_like(border)
    distance = np.linalg.norm(colours - _plane(colours, border), axis=2)
    like = border & (distance < TOLERANCE)
    calm = float(like.sum() / border.sum())
    if calm < CALM:
        return None, calm, np.zeros_like(border)
    red, green, blue = (round(level) for level in np.median(colours[like], axis=0).tolist())
    grain = 1.48 * float(
        np.median(distance[border])
    )  # standard deviation of what is normal, whatever else is at the border
    return f"#{red:02x}{green:02x}{blue:02x}", calm, distance > max(TOLERANCE, 3 * grain)


def _plane(colours: Float[np.ndarray, "h w 3"], border: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Return the plane through the border's colours; those far from it, of a subject that reaches the edge, hardly count."""
    rows, columns = np.indices(border.shape) / np.reshape(border.shape, (2, 1, 1)) - 0.5
    places = np.stack([np.ones_like(rows), rows, columns], axis=-1)
    known, wanted = places[border], colours[border]
    plane = np.zeros((3, 3))
    plane[0] = np.median(wanted, axis=0)
    for _ in range(8):
        error = np.linalg.norm(wanted - known @ plane, axis=1, keepdims=True)
        weight = 1 / np.sqrt(1 + (2 * error / TOLERANCE) ** 2)
        plane = np.linalg.lstsq(known * weight, wanted * weight, rcond=None)[0]
    return (places @ plane).astype(np.float32)


def _things(stands_out: Bool[np.ndarray, "h w"]) -> tuple[Bool[np.ndarray, "h w"], int]:
    """Return what stands out without gaps, holes and specks, and how many separate things it is."""
    height, width = stands_out.shape
    around = Image.fromarray(np.pad(stands_out, 3)).convert("L")  # so that closing gaps does not reach for the edge
    closed = around.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.MinFilter(3))
    ImageDraw.floodfill(closed, (0, 0), 128)
    labels = _labels(np.asarray(closed)[3 : height + 3, 3 : width + 3] != 128)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # the background
    largest = int(sizes.max())
    kept = (sizes >= max(4, largest / 20)) & (sizes > 0)
    return kept[labels], int(((sizes >= SECOND * largest) & kept).sum())


def _labels(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Return a number for every connected part, diagonals included; 0 elsewhere."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        height, width = mask.shape
        around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        spread = np.where(mask, np.max(around, axis=0), 0)
        if np.array_equal(spread, labels):
            return np.unique(np.append(0, labels), return_inverse=True)[1][1:].reshape(mask.shape)
        labels = spread


def _subject(things: Bool[np.ndarray, "h w"], objects: int, longer: int) -> Outline:
    height, width = things.shape
    rows, columns = np.flatnonzero(things.any(axis=1)), np.flatnonzero(things.any(axis=0))
    above, before = (CELLS - height) // 2, (CELLS - width) // 2
    cells = (before + columns[0], above + rows[0], before + columns[-1] + 1, above + rows[-1] + 1)
    left, top, right, bottom = (float(cell / CELLS) for cell in cells)
    contact = {"left": things[:, 0], "top": things[0], "right": things[:, -1], "bottom": things[-1]}
    return Outline(
        box=(left, top, right, bottom),
        fill=float(things.sum() / CELLS**2),
        pixels=round(max(right - left, bottom - top) * longer),
        objects=objects,
        edges=tuple(edge for edge, cells in contact.items() if cells.sum() >= 3),
    )


def _sharpness(picture: Image.Image, things: Bool[np.ndarray, "h w"]) -> float | None:
    """Return the variance of the Laplacian over that of the grey levels, in the things' box or, without any, all over."""
    grey = np.asarray(picture.convert("L"), np.float32)
    if things.any():
        rows, columns = np.flatnonzero(things.any(axis=1)), np.flatnonzero(things.any(axis=0))
        scale = max(picture.size) / CELLS
        grey = grey[
            max(0, int((rows[0] - 1) * scale)) : int((rows[-1] + 2) * scale),
            max(0, int((columns[0] - 1) * scale)) : int((columns[-1] + 2) * scale),
        ]
    if min(grey.shape) < 3 or grey.var() < 1:
        return None
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var() / grey.var())


def _where(subject: Outline) -> str:
    x, y = subject.centre
    things = "1 thing" if subject.objects == 1 else f"{subject.objects} things"
    return (
        f"{things}, {subject.extent:.0%} of the side, middle at {x:.0%} from the left and {y:.0%} from the top, "
        f"{subject.pixels} pixels long"
    )


def _wanted_pixels(portrait: Portrait) -> int:
    return round(PORTRAIT[2] * portrait.side)


def _too_small(portrait: Portrait) -> str:
    what, pixels = ("the subject", portrait.subject.pixels) if portrait.subject else ("the picture", max(portrait.size))
    if pixels >= _wanted_pixels(portrait):
        return ""
    return f"{what} is only {pixels} pixels long; give a picture in which it is {_wanted_pixels(portrait)} or more"


def _blurred(portrait: Portrait) -> str:
    if portrait.sharpness is None or portrait.sharpness >= SHARP or _too_small(portrait):
        return ""
    return f"it is blurred: its sharpness is {portrait.sharpness:.3f}, but should be {SHARP} or more; give a sharper picture"


def _several(portrait: Portrait) -> str:
    assert portrait.subject is not None
    if portrait.subject.objects < 2:
        return ""
    return f"there are {portrait.subject.objects} separate things, and all count as the subject; show one alone"


def _cut(portrait: Portrait) -> str:
    assert portrait.subject is not None
    if not portrait.subject.edges:
        return ""
    edges = " and ".join(portrait.subject.edges)
    return f"the subject reaches the {edges} edge of the picture; show the whole of it, with a margin around it"


def _shape(portrait: Portrait) -> str:
    width, height = portrait.size
    ratio = max(portrait.size) / min(portrait.size)
    if ratio <= SLIMMEST:
        return ""
    shape = "as wide as high" if width > height else "as high as wide"
    return (
        f"the picture is {ratio:.1f} times {shape}, so {portrait.padding:.0%} of what the encoder sees is padding; "
        f"give one that is nearer to a square"
    )


def _badly_framed(portrait: Portrait) -> str:
    subject = portrait.subject
    assert subject is not None
    away = max(abs(share - middle) for share, middle in zip(subject.centre, PORTRAIT[:2], strict=True))
    if subject.edges or (subject.extent >= SMALLEST and away <= OFF_CENTRE):
        return ""
    x, y = subject.centre
    left, top, right, bottom = portrait.crop or (0, 0, 0, 0)
    beyond = min(left, top) < 0 or right > portrait.size[0] or bottom > portrait.size[1]
    return (
        f"the subject takes {subject.extent:.0%} of the side, with its middle at {x:.0%} from the left and {y:.0%} from the "
        f"top, instead of {PORTRAIT[2]:.0%} in the middle; take the square of {right - left} pixels at ({left}, {top})"
        f"{', with more background around the picture' if beyond else ''}"
    )


def _busy(portrait: Portrait) -> str:
    if not portrait.calm:  # too slim to have a border
        return ""
    return (
        f"only {portrait.calm:.0%} of the picture's border is of one colour, so that the subject could not be told from what "
        "is around it; cut it out, or put it in front of one colour"
    )


def _nothing(portrait: Portrait) -> str:
    behind = f"the background ({portrait.background}{', where it is transparent' if portrait.transparent else ''})"
    return f"nothing stands out from {behind} by {TOLERANCE:.0f} of 255 levels or more; give a picture that shows something"
