"""What a run says about itself: the words it found, where the subject could act, and how strongly it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from realcustom.masks import coverage
from realcustom.prompts import TargetWord


@dataclass(frozen=True)
class SubjectMasks:
    """Where the subject could act."""

    steps: Tensor
    """`[n, b, h, w]` float32 in [0, 1]: M_hat of every UNet evaluation."""

    @property
    def final(self) -> Tensor:
        """The last step's masks, `[b, h, w]`; can be given back to the pipeline as `mask`."""
        return self.steps[-1]

    @property
    def coverage(self) -> Tensor:
        """Share of the cells that are not zero, `[n, b]`."""
        return torch.stack([coverage(step) for step in self.steps])


@dataclass(frozen=True)
class Report:
    """What was matched and how strongly the subject acted."""

    words: Sequence[TargetWord]
    """The word of each prompt."""
    coverage: Sequence[Sequence[float]]
    """Share of the grid where the mask is not zero, for every step and picture."""
    visual_to_textual: Sequence[float | None]
    """For every step: root mean square of the masked visual attention over that of the textual, mean over the layers;
    None where the subject's branch did not run."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {
            "words": [
                {"text": word.text, "tokens": list(word.tokens), "pieces": list(word.pieces)} for word in self.words
            ],
            "coverage": [list(step) for step in self.coverage],
            "visual_to_textual": list(self.visual_to_textual),
        }


@dataclass
class RealCustomOutput(BaseOutput):
    """Pictures, and what is to be said about them."""

    images: Any
    """A list of PIL pictures, or an array or tensor as `output_type` says."""
    masks: SubjectMasks | None = None
    """None where there was no subject."""
    report: Report | None = None
    """None where there was no subject."""
