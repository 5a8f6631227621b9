"""What every source of training data hands out: examples, addressed by a number, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One captioned picture, and the picture of its subject that conditions it."""

    picture: np.ndarray
    """`[h, w, 3]` uint8."""
    caption: str
    word: str
    """The phrase of the caption that names the subject; empty where the source does not know it."""
    reference: np.ndarray
    """`[h, w, 3]` uint8; the picture itself where the source has no second picture of the subject."""
    region: np.ndarray | None = None
    """`[h, w]` float32 in [0, 1], where the subject is, if the source knows; only ever used to measure."""


class ExampleSource(Protocol):
    """An endless, seekable source: the same number always gives the same example, which makes exact resume trivial."""

    def __getitem__(self, number: int) -> Example:
        """Return example `number`, which is at least 0."""
        ...


@dataclass(frozen=True)
class Batch:
    """`b` examples as the training loop needs them."""

    pixels: Tensor
    """`[b, 3, h, w]` float32 in [-1, 1]."""
    captions: Sequence[str]
    words: Sequence[str]
    references: Tensor
    """`[b, 3, h, w]` float32 in [-1, 1]."""
    regions: Tensor | None = None
    """`[b, h, w]` float32 in [0, 1], if the source knows them."""


def to_pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return `[b, 3, h, w]` float32 in [-1, 1] of `b` pictures `[h, w, 3]` uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def collate(examples: Sequence[Example]) -> Batch:
    """Return the examples as one batch."""
    regions = [example.region for example in examples if example.region is not None]
    return Batch(
        pixels=to_pixels([example.picture for example in examples]),
        captions=[example.caption for example in examples],
        words=[example.word for example in examples],
        references=to_pixels([example.reference for example in examples]),
        regions=torch.from_numpy(np.stack(regions)) if len(regions) == len(examples) else None,
    )
