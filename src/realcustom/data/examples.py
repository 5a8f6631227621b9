"""What every source of training data hands out: examples, addressed by a number, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Frame = tuple[float, float, float]
"""Centre y, centre x and size, as shares of the picture's side."""

WHOLE: Frame = (0.5, 0.5, 1.0)


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
    foreground: np.ndarray | None = None
    """`[h, w]` float32 in [0, 1], where the subject or another thing is, if the source knows: to weight the error."""
    frames: tuple[Frame, Frame] = (WHOLE, WHOLE)
    """Where the subject lies in the picture and in the reference; alike where one is the other."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else the source knows of the picture, by name; only ever used to measure."""
    conditioned: bool = True
    """Whether training shows the reference; if not, the picture is to be made by the text alone."""


@runtime_checkable
class ExampleSource(Protocol):
    """An endless, seekable source: the same number always gives the same example, which makes exact resume trivial."""

    def __getitem__(self, number: int) -> Example:
        """Return example `number`, which is at least 0."""
        ...


class PartlyTextOnly:
    """In a share of the batches a source's examples without their references, or another source's instead.

    Args:
        source: of the examples with references.
        share: of the batches, in [0, 1], that show none.
        batch_size: how many examples a batch has; all of one are alike.
        seed: decides which batches these are.
        text_source: of the examples of those batches, if not `source`.
    """

    def __init__(
        self,
        source: ExampleSource,
        share: float,
        *,
        batch_size: int,
        seed: int,
        text_source: ExampleSource | None = None,
    ) -> None:
        self.source, self.text_source = source, source if text_source is None else text_source
        self.share, self.batch_size, self.seed = share, batch_size, seed

    def __getitem__(self, number: int) -> Example:
        """Return example `number`."""
        rng = np.random.default_rng([self.seed, number // self.batch_size])
        if rng.random() >= self.share:
            return self.source[number]
        return replace(self.text_source[number], conditioned=False)


@dataclass(frozen=True)
class Batch:
    """`b` examples as the training loop needs them."""

    pixels: Tensor
    """`[b, 3, h, w]` float32 in [-1, 1]."""
    captions: Sequence[str]
    words: Sequence[str]
    references: Tensor
    """`[b, 3, h, w]` float32 in [-1, 1]."""
    frames: Tensor
    """`[b, 2, 3]` float32: centre y, centre x and size of the subject in the picture and in the reference."""
    regions: Tensor | None = None
    """`[b, h, w]` float32 in [0, 1], if the source knows them."""
    foregrounds: Tensor | None = None
    """Likewise."""
    facts: Sequence[Mapping[str, str]] = ()
    conditioned: bool = True
    """Whether the references are shown."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all of its tensors on a device."""
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {name: one.to(device) for name, one in held.items() if isinstance(one, Tensor)}
        return replace(self, **moved)


def to_pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """Return `[b, 3, h, w]` float32 in [-1, 1] of `b` pictures `[h, w, 3]` uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def collate(examples: Sequence[Example]) -> Batch:
    """Return the examples as one batch.

    Raises:
        ValueError: some show their references and others do not.
    """
    conditioned = examples[0].conditioned
    if any(example.conditioned != conditioned for example in examples):
        raise ValueError("a batch shows all of its references or none; give PartlyTextOnly the size of the batches")
    return Batch(
        pixels=to_pixels([example.picture for example in examples]),
        captions=[example.caption for example in examples],
        words=[example.word for example in examples],
        references=to_pixels([example.reference for example in examples]),
        frames=torch.tensor([example.frames for example in examples]),
        regions=_stacked([example.region for example in examples]),
        foregrounds=_stacked([example.foreground for example in examples]),
        facts=[example.facts for example in examples],
        conditioned=conditioned,
    )


def _stacked(maps: Sequence[np.ndarray | None]) -> Tensor | None:
    """Return maps as one tensor; None if the source does not know all of them."""
    known = [one for one in maps if one is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(maps) else None
