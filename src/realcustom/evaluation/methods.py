"""What is measured: ways of making a picture of a subject under a sentence, all asked in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from realcustom.evaluation.output import Settings
from realcustom.pipeline import RealCustomPipeline
from realcustom.report import RealCustomOutput


@dataclass(frozen=True)
class Request:
    """One picture that is wanted."""

    prompt: str
    word: str
    """What the prompt calls the subject."""
    subject: str
    """The subject's name as files can have it, alike for all requests that show it."""
    noun: str
    """What the subject is, whatever the prompt calls it."""
    reference: np.ndarray
    """`[h, w, 3]` uint8, the subject's picture."""
    seed: int


class Method(Protocol):
    """A way of making pictures of subjects."""

    pipeline: RealCustomPipeline
    """The base on which it stands; by itself it makes the rows without a subject."""

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other methods on the same base, as JSON can hold it."""
        ...

    def make(self, requests: Sequence[Request], settings: Settings) -> RealCustomOutput:
        """Return the pictures of some requests, and masks if it has any."""
        ...


class Customized:
    """A RealCustom model, shown the reference.

    Args:
        pipeline: the model.
        everywhere: let the subject act in all of the picture, whatever the word's attention says, and with all of its features
            unless a share of them is asked for: an image prompt.
    """

    def __init__(self, pipeline: RealCustomPipeline, *, everywhere: bool = False) -> None:
        self.pipeline, self.everywhere = pipeline, everywhere

    def describe(self) -> dict[str, Any]:
        """Return its name."""
        return {"method": "image-prompt" if self.everywhere else "realcustom"}

    def make(self, requests: Sequence[Request], settings: Settings) -> RealCustomOutput:
        """Return pictures and masks."""
        more = settings.arguments() | settings.subject_arguments()
        if self.everywhere:
            more = {"token_ratio": 1.0, **more, "mask": Image.new("L", (1, 1), 255)}
        return self.pipeline(
            [one.prompt for one in requests], [Image.fromarray(one.reference) for one in requests],
            [one.word for one in requests], generator=[torch.Generator().manual_seed(one.seed) for one in requests],
            occurrence=1, **more,
        )  # fmt: skip
