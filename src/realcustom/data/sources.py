"""From a recipe's data section to a source of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from realcustom.data.examples import ExampleSource
from realcustom.data.stickers.drawings import DrawingStore, Split
from realcustom.data.stickers.scenes import SceneOptions, SceneSource
from realcustom.options import Options


class DataOptions(Options):
    """Where examples come from."""

    source: Literal["stickers"]
    folder: Path
    """Where `realcustom data stickers` has written the drawings."""
    resolution: PositiveInt = 128
    """Side of the pictures, in pixels."""
    reference: Literal["self", "other"] = "self"
    """Condition on the target picture itself, or on another picture of the same subject."""
    scenes: SceneOptions = SceneOptions()


def open_source(data: DataOptions, split: Split, seed: int) -> ExampleSource:
    """Return the examples of one split; only its own drawings occur in them."""
    store = DrawingStore.load(data.folder).where(lambda drawing: drawing.split == split)
    return SceneSource(store, data.scenes, seed=seed, side=data.resolution, reference=data.reference)
