"""From a recipe's data section to a source of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from realcustom.data.examples import ExampleSource
from realcustom.data.folder import FolderSource
from realcustom.data.stickers.drawings import DrawingStore, Split
from realcustom.data.stickers.scenes import Reference, SceneOptions, SceneSource
from realcustom.options import Options


class DataOptions(Options):
    """Where examples come from."""

    source: Literal["stickers", "folder"]
    """The stickers world, or a folder of captioned pictures for each split."""
    folder: Path
    """stickers: where `realcustom data stickers` has written the drawings; folder: holds `train` and `validation`."""
    resolution: PositiveInt = 128
    """Side of the pictures, in pixels."""
    reference_resolution: PositiveInt = 128
    """Side of the references, in pixels."""
    reference: Reference = "self"
    """stickers: condition on the target picture itself, on another picture of the same subject, or on the bare drawing."""
    styles: tuple[str, ...] = ()
    """stickers: one drawing of each noun, in the first of these styles in which there is one; all if none is named."""
    scenes: SceneOptions = SceneOptions()
    """stickers: what scenes look like."""


def open_source(data: DataOptions, split: Split, seed: int) -> ExampleSource:
    """Return the examples of one split.

    Raises:
        InputError: the folder does not hold what it should, or no drawing in one of the styles.
    """
    if data.source == "folder":
        return FolderSource(
            data.folder / split, seed=seed, side=data.resolution, reference_side=data.reference_resolution
        )
    store = DrawingStore.load(data.folder).where(lambda drawing: drawing.split == split)
    if data.styles:
        store = store.one_each(data.styles)
    return SceneSource(
        store, data.scenes, seed=seed, side=data.resolution, reference=data.reference,
        reference_side=data.reference_resolution,
    )  # fmt: skip
