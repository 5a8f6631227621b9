"""Where models lie on this machine: inside the package, in a folder, or in the hub's local cache.

The network is never asked, and nothing here needs torch, so that what only looks at files answers at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, HFValidationError
from huggingface_hub.file_download import repo_folder_name

from realcustom.errors import InputError, did_you_mean
from realcustom.files import read_json

EMBEDDED = ("stickers",)
"""Models that ship inside the package."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

INDEX, CARD = "model_index.json", "README.md"
PIPELINE = "RealCustomPipeline"
"""What the index of a model of this package says that it is."""

_NO_PROSE = ("#", "|", "!", "[!", "<", ">", "`", "-")
"""What a heading, a table, a picture, a badge and the like begin with in Markdown."""


@dataclass(frozen=True)
class Place:
    """Where a model lies, or where it would lie if it were there."""

    name: str
    kind: Literal["embedded", "folder", "hub"]
    folder: Path

    @property
    def card(self) -> str | None:
        """Path or address of the model card; None if there is none."""
        if (self.folder / CARD).is_file():
            return str(self.folder / CARD)
        return f"{constants.ENDPOINT}/{self.name}" if self.kind == "hub" else None

    @property
    def is_there(self) -> bool:
        """Whether the folder holds a model in diffusers' layout, whole or not."""
        return (self.folder / INDEX).is_file()


@dataclass(frozen=True)
class Model:
    """What a model's files say about it."""

    place: Place
    takes_subject: bool
    """Whether it has the RealCustom part; without, it makes pictures of text only."""
    pixels: int | None
    """Side of its pictures; None where its files do not say it."""
    size: int
    """Of all its files, in bytes."""
    description: str
    """First sentence of its card; empty without a card."""


def embedded_folder(name: str) -> Path:
    """Return the folder where an embedded model ships."""
    return Path(str(resources.files("realcustom"))) / "models" / name


def locate(name: str) -> Place:
    """Return where a model lies: an embedded one, a folder, or the main revision of a hub id in the local cache.

    An embedded or hub model that is not there is placed where it would be.

    Raises:
        InputError: the name is neither of an embedded model nor of a folder, and cannot be a hub id.
    """
    if name in EMBEDDED:
        return Place(name, "embedded", embedded_folder(name))
    if name and os.path.isdir(name):
        return Place(name, "folder", Path(name))
    try:
        index = try_to_load_from_cache(name, INDEX)
    except HFValidationError:
        index = None
    if isinstance(index, str):
        return Place(name, "hub", Path(index).parent)
    if not _HUB_ID.fullmatch(name):
        hint = did_you_mean(name.lower(), EMBEDDED)
        raise InputError(f"there is no embedded model and no folder {name!r}, nor is it a hub id (owner/name).{hint}")
    return Place(name, "hub", Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model"))


def is_hub_id(name: str) -> bool:
    """Return whether a name can only mean a model of the hub: owner/name, and nothing of that name lies here."""
    return bool(_HUB_ID.fullmatch(name)) and not os.path.lexists(name)


def cached_places() -> list[Place]:
    """Return the models of this package in the hub's local cache, sorted by name; of each its main or newest revision."""
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        return []
    places = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type == "model" and repository.revisions:
            newest = max(repository.revisions, key=lambda revision: ("main" in revision.refs, revision.last_modified))
            places.append(Place(repository.repo_id, "hub", newest.snapshot_path))
    return [place for place in places if read_object(place.folder / INDEX).get("_class_name") == PIPELINE]


def describe(place: Place) -> Model:
    """Return what a model's files say about it; what cannot be read is left open."""
    return Model(
        place=place,
        takes_subject=_has(read_object(place.folder / INDEX), "adapter"),
        pixels=picture_side(place.folder),
        size=sum(path.stat().st_size for path in place.folder.rglob("*") if path.is_file()),
        description=_first_sentence(place.folder / CARD),
    )


def _has(index: Mapping[str, Any], component: str) -> bool:
    """Whether a model has a component, by its index."""
    entry = index.get(component)
    return isinstance(entry, list) and None not in entry


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, or an empty one if the file holds none."""
    try:
        return read_json(path)
    except InputError:
        return {}


def picture_side(folder: Path) -> int | None:
    """Return the side of a model's pictures in pixels, from its configurations alone; None where they do not say it."""
    cells = read_object(folder / "unet" / "config.json").get("sample_size")
    autoencoder = read_object(folder / "vae" / "config.json")
    blocks = autoencoder.get("encoder_block_out_channels") or autoencoder.get("block_out_channels")
    if not isinstance(cells, int) or not isinstance(blocks, list):
        return None
    return cells * 2 ** (len(blocks) - 1)


def reference_side(model: Path, part: Path | None = None) -> int | None:
    """Return the side of what a model's encoder sees of a reference, in pixels; None where its files do not say it.

    Args:
        model: its folder.
        part: folder of the RealCustom part that is put on it, which may bring its own image encoders.
    """
    index = read_object(model / INDEX)
    sides: list[Any] = []
    for name in ("image_encoder", "image_encoder_2"):
        brought = None if part is None else part / name / "config.json"
        if brought is not None and brought.is_file():
            sides.append(read_object(brought).get("image_size"))
        elif _has(index, name):
            sides.append(read_object(model / name / "config.json").get("image_size"))
    own = picture_side(model)
    known = all(isinstance(side, int) for side in sides or [own])
    return seen_side(own or 0, sides) if known else None


def seen_side(own: int, encoders: Sequence[int]) -> int:
    """Return the side of what is seen of a reference, in pixels.

    Args:
        own: of the base's own pictures, which its autoencoder sees if there is no image encoder.
        encoders: of what each image encoder looks at; where there are two, they also look at the parts of a picture of
            double size (RC++).
    """
    return encoders[0] * len(encoders) if encoders else own


def _first_sentence(card: Path) -> str:
    """Return the first sentence of a card as plain text."""
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    prose = next((" ".join(one.split()) for one in paragraphs if one and not one.startswith(_NO_PROSE)), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose).replace("**", "").replace("`", "")
    return re.split(r"(?<=[.!?])\s", plain)[0]
