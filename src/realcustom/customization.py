"""One step of RealCustom, whatever runs the UNet: T2I finds the mask, TI2I paints the subject in it (RC section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import AttentionTap
from realcustom.masks import (
    MaskMode,
    Normalization,
    aggregate,
    attended,
    combine,
    influence_scope,
    influence_threshold,
)
from realcustom.placement import FRAME_PACE, FRAME_SCOPE, frame_of, place_tokens
from realcustom.prompts import TextStates


@dataclass(frozen=True)
class SubjectViews:
    """The subject and the text of each of `b` pictures."""

    tokens: Tensor
    """`[b, i, c_i]`."""
    keys_values: Mapping[str, tuple[Tensor, Tensor]]
    """Of every cross-attention layer, `[b, i, c]` (RC 4)."""
    text: TextStates
    present: Tensor | None = None
    """`[b, i]`, which tokens show the picture of the subject and not its padding; all if None."""
    frames: Tensor | None = None
    """`[b, 3]`, where the subject lies in the reference; None where nothing is placed."""

    def rows(self, index: Tensor) -> SubjectViews:
        """Return those of some pictures."""
        return SubjectViews(
            self.tokens[index],
            {name: (keys[index], values[index]) for name, (keys, values) in self.keys_values.items()},
            self.text.rows(index),
            None if self.present is None else self.present[index],
            None if self.frames is None else self.frames[index],
        )


@dataclass(frozen=True)
class MaskSettings:
    """How the word's attention becomes a mask."""

    scope: float = 0.25
    """gamma_scope, the share of the grid that is kept (RC 11), or 1 minus the lowest relevance with `threshold`."""
    normalization: Normalization = "max"
    binary: bool = False
    threshold: bool = False
    """Bound the relevance instead of the number of cells, as the authors' code can."""
    refined: bool = False
    """Spread the relevance along the UNet's own self-attention (RC++)."""
    frozen_after: int | None = None
    """Number of evaluations after which the last mask is kept (RC++); None never."""
    given: Tensor | None = None
    """`[b, h, w]`, a mask of the user's."""
    mode: MaskMode = "replace"
    """How the user's mask and the word's go together."""
    layers: tuple[str, ...] = ()
    """Beginnings of the names of the layers whose attention counts; all if there are none."""


@dataclass
class Customization:
    """The subjects of the pictures of one run, and what its steps have found.

    Args:
        adapter: the trained part.
        tap: of the UNet.
        views: the subject and the text of each picture.
        columns: `[b, t]`, 1 on the tokens of each picture's word.
        scales: `[b]`, what each subject's contribution is multiplied with.
        grid: height and width of masks.
        settings: of masks.
        token_ratio: gamma_num (RC 10).
    """

    adapter: RealCustomAdapter
    tap: AttentionTap
    views: SubjectViews
    columns: Tensor
    scales: Tensor
    grid: tuple[int, int]
    settings: MaskSettings = field(default_factory=MaskSettings)
    token_ratio: float = 0.8
    masks: list[Tensor] = field(default_factory=list)
    """`[b, h, w]` of every evaluation so far."""
    strengths: list[list[float | None]] = field(default_factory=list)
    """How strongly each subject acted in each evaluation, against the text; None where its branch did not run."""
    _mask: Tensor | None = None
    _frames: Tensor | None = None
    _parts: dict[tuple[int, ...], SubjectViews] = field(default_factory=dict)

    @property
    def needs_text(self) -> bool:
        """Whether the next mask comes from the word's attention, so that T2I has to run."""
        settings = self.settings
        if settings.given is not None and settings.mode == "replace":
            return False
        # frozen before the first evaluation would be no mask at all, so that there is always one
        return settings.frozen_after is None or len(self.masks) < max(1, settings.frozen_after)

    def watch(self) -> None:
        """Let the UNet record where the word looks, if the next mask comes from there; T2I's rows are the last of the batch."""
        self.tap.watched = self.settings.layers
        self.tap.word = self.columns if self.needs_text else None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Do so inside the `with` block."""
        self.watch()
        try:
            yield
        finally:
            self.tap.word = None

    def find_mask(self) -> Tensor:
        """Return where the subjects may act in this evaluation, `[b, h, w]`, from what T2I recorded if it is needed."""
        if self.needs_text or self._mask is None:
            self._mask, frames = self._found()
            before = self._frames
            steady = frames if before is None or self._given_alone else torch.lerp(before, frames, FRAME_PACE)
            self._frames = steady
        self.masks.append(self._mask.cpu())
        self.strengths.append([None] * len(self._mask))
        return self._mask

    def acting_rows(self) -> Tensor:
        """Return the numbers of the pictures in which TI2I can differ from T2I."""
        assert self._mask is not None
        return ((self.scales != 0) & self._mask.flatten(1).any(dim=1)).nonzero()[:, 0]

    def part(self, rows: Tensor) -> SubjectViews:
        """Return what belongs to some of the pictures; always the same object for the same ones, as the text's cache needs."""
        if len(rows) == len(self.scales):
            return self.views
        key = tuple(rows.tolist())
        if key not in self._parts:
            self._parts[key] = self.views.rows(rows)
        return self._parts[key]

    @contextmanager
    def acting(
        self, noisy: Tensor, alpha: Tensor, rows: Tensor, views: SubjectViews | None = None
    ) -> Iterator[SubjectViews]:
        """Let the subjects act on some of the pictures inside the `with` block.

        Args:
            noisy: `[r, c, h, w]`, z_t of these pictures as the UNet receives it.
            alpha: a_t.
            rows: numbers of the pictures.
            views: other subjects for them, which leave no trace in the report.

        Yields:
            Their subjects and texts.
        """
        assert self._mask is not None
        own = views is None
        views = self.part(rows) if views is None else views
        mask, scales = (tensor[rows].to(noisy) for tensor in (self._mask, self.scales))
        positions = None
        if self.adapter.log_precisions and views.frames is not None:
            assert self._frames is not None
            side = round(views.tokens.shape[1] ** 0.5)
            positions = place_tokens(side, views.frames.to(noisy), self._frames[rows].to(noisy))
        subject = self.adapter.act(
            views.tokens, views.keys_values, views.text, noisy, alpha.to(noisy).expand(len(noisy)),
            token_ratio=self.token_ratio, mask=mask, scale=scales, present=views.present, positions=positions,
        )  # fmt: skip
        self.tap.subjects, self.tap.strengths = [subject], {} if own else None
        try:
            yield views
            if self.tap.strengths:
                self._note(rows, self.tap.strengths)
        finally:
            self.tap.subjects, self.tap.strengths = (), None

    def _note(self, rows: Tensor, strengths: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        ratios = torch.stack([visual / textual for visual, textual in strengths.values()]).mean(dim=0)
        for row, ratio in zip(rows.tolist(), ratios.tolist(), strict=True):
            self.strengths[-1][row] = ratio

    @property
    def _given_alone(self) -> bool:
        return self.settings.given is not None and self.settings.mode == "replace"

    def _found(self) -> tuple[Tensor, Tensor]:
        """Return the mask and the frames of this evaluation."""
        settings = self.settings
        if settings.given is not None and self._given_alone:
            return settings.given, frame_of(settings.given)
        refine = partial(attended, layers=self.tap.own_attention(self.grid)) if settings.refined else None
        relevance = aggregate(
            list(self.tap.maps.values()), normalization=settings.normalization, size=self.grid, refine=refine
        )
        bounded = influence_threshold if settings.threshold else influence_scope
        found = bounded(relevance, mask_scope=settings.scope, binary=settings.binary)
        framing = influence_scope(relevance, mask_scope=FRAME_SCOPE)
        if settings.given is not None:
            found, framing = (combine(one, settings.given, settings.mode) for one in (found, framing))
        return found, frame_of(framing)
