"""A subject as a caller gives it: what it looks like, which word stands for it, and where, when and how strongly it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.checks import check_choice, check_least, check_numbers, check_share, is_number, is_whole
from realcustom.errors import InputError
from realcustom.masks import MASK_MODES, MaskMode
from realcustom.pictures import as_seen, read_picture
from realcustom.portrait import fit_reference
from realcustom.saved_subject import SUFFIX, SavedSubject

Likeness = Image.Image | SavedSubject
"""What a subject looks like: a picture of it, or what was saved of one."""


def read_likeness(path: Path) -> Likeness:
    """Return a picture, or what was saved of one, as the file's name says.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    return SavedSubject.load(path) if path.name.endswith(SUFFIX) else read_picture(path)


def shown(likeness: Likeness, side: int) -> Image.Image:
    """Return what an encoder sees of it, a square of `side` pixels."""
    return fit_reference(likeness.preview if isinstance(likeness, SavedSubject) else likeness, side)


@dataclass(frozen=True)
class Subject:
    """One subject of a picture to be made.

    Raises:
        InputError: a value cannot be used.
    """

    image: Likeness | Sequence[Likeness]
    """The picture of the subject, or several of the same one; a saved subject in the place of any."""
    word: str
    """The real word, or phrase, of the prompt that is narrowed to the subject."""
    occurrence: int | None = None
    """Which one, if the prompt says the word more than once; from 1."""
    scale: float = 1.0
    """What its contribution to every layer is multiplied with."""
    mask: Any = None
    """Where it may act, see `RealCustomPipeline.__call__`; where its word looks if None."""
    mask_mode: MaskMode = "replace"
    """How that mask and the word's go together."""
    start: float = 0.0
    """Share of the run before which it does not act."""
    end: float = 1.0
    """Share of the run from which on it does not act any more."""
    weights: Sequence[float] | None = None
    """How much each of several pictures counts, above 0; all the same if None."""
    box: tuple[int, int, int, int] | None = None
    """The part of its picture that shows it: left, top, right and bottom in pixels; all of it if None."""

    def __post_init__(self) -> None:
        for picture in self.images:
            if not isinstance(picture, (Image.Image, SavedSubject)):
                raise InputError(
                    f"subject_image must be a PIL picture or a saved subject, but is a {type(picture).__name__}"
                )
        if not isinstance(self.word, str):
            raise InputError(f"the word of a subject must be a text, but is {self.word!r}")
        if self.occurrence is not None:
            check_least("occurrence", self.occurrence, 1)
        check_numbers({"subject_scale": self.scale})
        check_choice("mask_mode", self.mask_mode, MASK_MODES)
        if self.mask is None and self.mask_mode != "replace":
            raise InputError(f"mask_mode {self.mask_mode!r} was given without mask, which it is about")
        for name in ("start", "end"):
            check_share(name, getattr(self, name))
        if not self.start < self.end:
            raise InputError(f"start must lie before end, but they are {self.start} and {self.end}")
        self._check_weights()
        self._check_box()

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        numbers = isinstance(self.weights, (list, tuple)) and all(
            is_number(weight) and 0.001 <= weight <= 1000 for weight in self.weights
        )
        if not numbers or len(self.weights) != len(self.images):
            raise InputError(
                f"weights must be a number from 0.001 to 1000 for each of the {len(self.images)} pictures, but are "
                f"{self.weights!r}"
            )

    def _check_box(self) -> None:
        if self.box is None:
            return
        whole = isinstance(self.box, (list, tuple)) and len(self.box) == 4 and all(is_whole(side) for side in self.box)
        if not whole or not (0 <= self.box[0] < self.box[2] and 0 <= self.box[1] < self.box[3]):
            raise InputError(f"box must be left, top, right and bottom in whole pixels, but is {self.box!r}")
        if len(self.images) != 1 or not isinstance(self.images[0], Image.Image):
            raise InputError(
                "box says which part of one picture shows the subject, but there are several, or a saved one"
            )
        width, height = as_seen(self.images[0]).size
        if self.box[2] > width or self.box[3] > height:
            raise InputError(f"box {tuple(self.box)} reaches beyond the picture of {width} x {height} pixels")

    @property
    def images(self) -> list[Likeness]:
        """Its pictures as a list, of which there is at least one."""
        if not isinstance(self.image, (list, tuple)):
            return [self.image]  # type: ignore[list-item]
        if not self.image:
            raise InputError("a subject needs at least one picture, but its list of them is empty")
        return list(self.image)

    @property
    def likenesses(self) -> list[Likeness]:
        """What of its pictures shows it."""
        if self.box is None:
            return self.images
        left, top, right, bottom = self.box
        return [as_seen(one).crop((left, top, right, bottom)) for one in self.images if isinstance(one, Image.Image)]

    @property
    def shares(self) -> list[float]:
        """How much each picture counts; the largest counts 1."""
        weights = [1.0] * len(self.images) if self.weights is None else [float(weight) for weight in self.weights]
        return [weight / max(weights) for weight in weights]
