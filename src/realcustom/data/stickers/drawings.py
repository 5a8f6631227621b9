"""The drawings of the stickers world: which exist, who made them, which split each belongs to, and their pixels.

`vocabulary.json` beside this file is the law: every noun, its drawings and their split. Whole nouns are held out of all
training, and of every other noun at least one drawing. `fluent-emoji` and `fluent-emoji-flat` shade one drawing in two
ways, so they count as one identity and always share a split.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from realcustom.errors import InputError
from realcustom.files import drafted, write_whole

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

SIDE = 128
"""Side of the square that a drawing is fitted into, in pixels."""


@dataclass(frozen=True)
class IconSet:
    """One openly licensed set of drawings, as the npm registry serves it."""

    name: str
    package: str
    version: str
    integrity: str
    license: str
    author: str
    url: str


@dataclass(frozen=True)
class Drawing:
    """One drawing of one noun."""

    noun: str
    """The word that a caption uses for it: "robot", "ice cream"."""
    kind: str
    """A more general word for the same thing: "toy", "food"."""
    style: str
    """Name of the icon set."""
    icon: str
    """Name inside the icon set."""
    split: Split
    common: bool
    """Whether the noun is one of the well-known ones that training shows more often."""
    held_out: bool
    """Whether no drawing at all of this noun is trained on."""

    @property
    def identity(self) -> str:
        """The drawing up to its shading."""
        return identity(self.noun, self.style)


def identity(noun: str, style: str) -> str:
    """Name the subject that a drawing shows: the two shadings of a Fluent Emoji show one and the same."""
    return f"{noun}/{'fluent' if style.startswith('fluent') else style}"


@cache
def _vocabulary() -> dict:
    return _read("vocabulary.json")


def _read(name: str) -> Any:
    return json.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))


@cache
def synonyms() -> dict[str, list[str]]:
    """Return other words for nouns and kinds, of those that are trained on: "hound", "spaniel" for "dog".

    Each word belongs to one of them, and none says the name of another one.
    """
    return _read("synonyms.json")


def icon_sets() -> list[IconSet]:
    """Return the seven icon sets with version, checksum, licence and author."""
    return [IconSet(name=name, **fields) for name, fields in _vocabulary()["sets"].items()]


def vocabulary() -> list[Drawing]:
    """Return every drawing of every noun, in a fixed order."""
    return [
        Drawing(noun, entry["kind"], style, icon["icon"], icon["split"], entry["common"], entry["held_out"])
        for noun, entry in _vocabulary()["nouns"].items()
        for style, icon in entry["drawings"].items()
    ]


@dataclass(frozen=True)
class DrawingStore:
    """Drawings with their pixels.

    `pixels` is `[n, 128, 128, 4]` uint8 RGBA (not premultiplied); the drawing fills the square in its longer direction.
    `hues` is `[n]`: the dominant hue in degrees, or NaN where a drawing is too grey to have one.
    """

    drawings: Sequence[Drawing]
    pixels: np.ndarray
    hues: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> DrawingStore:
        """Read what `prepare` wrote.

        Raises:
            InputError: the folder does not hold prepared drawings.
        """
        index, tensors = folder / "drawings.json", folder / "drawings.safetensors"
        if not index.is_file() or not tensors.is_file():
            raise InputError(f"{folder} holds no prepared drawings; make them with: realcustom data stickers {folder}")
        arrays = load_file(tensors)
        return cls([Drawing(**fields) for fields in json.loads(index.read_text())], arrays["pixels"], arrays["hues"])

    def where(self, keep: Callable[[Drawing], bool]) -> DrawingStore:
        """Return the store of those drawings for which `keep` is true, in the same order."""
        rows = [row for row, drawing in enumerate(self.drawings) if keep(drawing)]
        return DrawingStore([self.drawings[row] for row in rows], self.pixels[rows], self.hues[rows])

    def one_each(self, styles: Sequence[str]) -> DrawingStore:
        """Return the store of one drawing of each noun, in the first of some styles in which there is one.

        Raises:
            InputError: there is no drawing in one of the styles.
        """
        known = {drawing.style for drawing in self.drawings}
        if strange := [style for style in styles if style not in known]:
            raise InputError(f"there is no drawing in the style {strange[0]}; there are {', '.join(sorted(known))}")
        there = {(drawing.noun, drawing.style) for drawing in self.drawings}
        chosen = {noun: next((style for style in styles if (noun, style) in there), None) for noun, _ in there}
        return self.where(lambda drawing: drawing.style == chosen[drawing.noun])

    def save(self, folder: Path) -> None:
        """Write the store into `folder`, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        with drafted(folder / "drawings.safetensors") as draft:
            save_file({"pixels": self.pixels, "hues": self.hues}, draft)
        write_whole(json.dumps([asdict(drawing) for drawing in self.drawings], indent=0), folder / "drawings.json")

    def __len__(self) -> int:
        return len(self.drawings)


def dominant_hue(rgba: np.ndarray) -> float:
    """Return the dominant hue of `rgba [h, w, 4]` in degrees, NaN where less than a fifth of the drawing is colourful."""
    picture = Image.fromarray(rgba)
    hue, saturation, value = np.moveaxis(np.asarray(picture.convert("RGB").convert("HSV"), np.float32) / 255, -1, 0)
    opaque = rgba[..., 3] > 127
    strength = saturation * value * opaque
    if not opaque.any() or (strength[opaque] > 0.35).mean() < 0.2:
        return float("nan")
    direction = (strength**2 * np.exp(2j * np.pi * hue)).sum()
    return float(np.degrees(np.angle(direction)) % 360)


def rasterise(svg: str) -> np.ndarray:
    """Draw an SVG so that it fills a 128 x 128 square in its longer direction; return `[128, 128, 4]` uint8 RGBA."""
    import resvg_py

    drawn = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE + 32, height=SIDE + 32))
    picture = Image.open(io.BytesIO(drawn)).convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    picture = picture.crop(box).convert("RGBa")
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    fitted = Image.new("RGBA", (SIDE, SIDE))
    fitted.paste(
        picture.resize((width, height), Image.Resampling.LANCZOS).convert("RGBA"),
        ((SIDE - width) // 2, (SIDE - height) // 2),
    )
    return np.asarray(fitted)


def download(icon_set: IconSet, registry: str) -> bytes:
    """Fetch one icon set's package from an npm registry and verify its checksum.

    Raises:
        InputError: the registry cannot be reached, or what it sent is not the pinned package.
    """
    short = icon_set.package.rsplit("/", 1)[-1]
    url = f"{registry.rstrip('/')}/{icon_set.package}/-/{short}-{icon_set.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            archive = reply.read()
    except (urllib.error.URLError, OSError) as error:
        raise InputError(f"could not fetch {url} ({error}); check the network or name another --registry") from error
    algorithm, expected = icon_set.integrity.split("-", 1)
    given = base64.b64encode(hashlib.new(algorithm, archive).digest()).decode()
    if given != expected:
        raise InputError(f"{url} has {algorithm} {given}, but {expected} was pinned; the file is not the published one")
    return archive


def svgs(archive: bytes, names: Sequence[str]) -> Iterator[str]:
    """Yield the named icons of an icon set's package as SVG documents, in the given order."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        try:
            member = package.extractfile("package/icons.json")
        except KeyError:
            member = None
        if member is None:
            raise InputError("the package holds no icons.json; it is not an Iconify icon set")
        icons = json.load(member)
    for name in names:
        icon = icons["icons"][name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        )


def prepare(folder: Path, registry: str, progress: Callable[[str], None]) -> DrawingStore:
    """Download the icon sets, rasterise every drawing of the vocabulary and write them into `folder`."""
    drawings = vocabulary()
    pixels = np.zeros((len(drawings), SIDE, SIDE, 4), np.uint8)
    for icon_set in icon_sets():
        rows = [row for row, drawing in enumerate(drawings) if drawing.style == icon_set.name]
        archive = download(icon_set, registry)
        for row, svg in zip(rows, svgs(archive, [drawings[row].icon for row in rows]), strict=True):
            pixels[row] = rasterise(svg)
        progress(f"{icon_set.name}: {len(rows)} drawings ({icon_set.license}, {icon_set.author})")
    store = DrawingStore(drawings, pixels, np.array([dominant_hue(rgba) for rgba in pixels], np.float32))
    store.save(folder)
    return store
