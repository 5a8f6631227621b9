"""A plain folder of captioned pictures, in the layout that diffusers' and datasets' image folders have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import ImageOps

from realcustom.data.examples import Example
from realcustom.errors import InputError
from realcustom.pictures import as_seen, read_picture
from realcustom.portrait import opaque


class FolderSource:
    """An endless, seekable source: every epoch shows each picture once, in an order of its own.

    `metadata.jsonl` holds one JSON object a line: `file_name` and `text`, and optionally `reference_file_name`, another
    picture of the same subject. Without it the picture itself is the reference, as the paper trains.

    Args:
        folder: holds `metadata.jsonl` and the pictures that it names.
        seed: another seed, another order.
        side: pictures are scaled and centrally cropped to squares of so many pixels.
        reference_side: likewise for references; as the pictures if not given.
    """

    def __init__(self, folder: Path, *, seed: int, side: int, reference_side: int | None = None) -> None:
        index = folder / "metadata.jsonl"
        if not index.is_file():
            raise InputError(f"{folder} holds no metadata.jsonl with one line for each picture: file_name and text")
        self.folder, self.seed, self.side, self.reference_side = folder, seed, side, reference_side or side
        self.entries = [
            self._entry(index, number, line) for number, line in enumerate(index.read_text("utf-8").splitlines(), 1)
        ]
        if not self.entries:
            raise InputError(f"{index} is empty")

    def __getitem__(self, number: int) -> Example:
        """Return example `number`."""
        epoch, place = divmod(number, len(self.entries))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.entries))
        entry = self.entries[order[place]]
        picture = self._picture(entry["file_name"], self.side)
        reference = self._picture(entry.get("reference_file_name", entry["file_name"]), self.reference_side)
        return Example(picture, entry["text"], "", reference)

    def _picture(self, name: str, side: int) -> np.ndarray:
        return np.asarray(ImageOps.fit(opaque(as_seen(read_picture(self.folder / name))), (side, side)))

    def _entry(self, index: Path, number: int, line: str) -> dict[str, str]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{index}, line {number}, is no JSON object: {error}") from error
        absent = [name for name in ("file_name", "text") if not isinstance(entry, dict) or name not in entry]
        if absent:
            raise InputError(f"{index}, line {number}, lacks {' and '.join(absent)}")
        return entry
