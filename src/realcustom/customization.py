"""One step of RealCustom, whatever runs the UNet: T2I finds the mask, TI2I paints the subject in it (RC section 3.3).

A subject on its way into a picture:

- `Subject`: what a caller says of it, with its likenesses: pictures, or what was saved of them.
- `Portrait`: what is known of one of its pictures, such as where the subject lies in it.
- `Reference`: one of its pictures as the adapter's tokens, keys and values.
- `Actor`: all its references with its word, scale, mask and time in one run.
- `View` and `Influence`: a reference, and an actor, in one UNet call: the tokens that act, where and how strongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from einops import rearrange, repeat
from torch import Tensor

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import AttentionTap, Influence, View
from realcustom.masks import (
    MaskMode,
    aggregate,
    attended,
    combine,
    exclusive,
    influence_scope,
    influence_threshold,
    overlap,
    yielding,
)
from realcustom.placement import FRAME_SCOPE, first_frame, frame_of, frame_step, grid_side, place_tokens
from realcustom.prompts import TextStates
from realcustom.settings import MaskSettings


@dataclass(frozen=True)
class Reference:
    """One picture of a subject, for each of `b` pictures to be made."""

    tokens: Tensor
    """`[b, i, c_i]`."""
    keys_values: Mapping[str, tuple[Tensor, Tensor]]
    """Of every cross-attention layer, `[b, i, c]` (RC 4)."""
    present: Tensor | None = None
    """`[b, i]`, which tokens show the picture of the subject and not its padding; all if None."""
    frames: Tensor | None = None
    """`[b, 3]`, where the subject lies in the reference; None where nothing is placed."""
    share: float = 1.0
    """How much it counts beside other pictures of the same subject, above 0."""

    def rows(self, index: Tensor) -> Reference:
        """Return those of some pictures."""
        return self._each(lambda tensor: tensor[index])

    def repeated(self, times: int) -> Reference:
        """Return each of them several times in a row; of one subject's, all share its memory."""
        return self._each(lambda tensor: repeat(tensor, "n ... -> (n times) ...", times=times))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Reference:
        """Return what a change of all its tensors makes of it."""
        return Reference(
            change(self.tokens),
            {name: (change(keys), change(values)) for name, (keys, values) in self.keys_values.items()},
            None if self.present is None else change(self.present),
            None if self.frames is None else change(self.frames),
            self.share,
        )


@dataclass(frozen=True)
class Actor:
    """One subject of a run, in each of `b` pictures to be made."""

    references: Sequence[Reference]
    """Its pictures; attention chooses among the tokens of all of them."""
    columns: Tensor
    """`[b, t, 1 + n]`, 1 on the tokens of each picture's word and of each of `n` others to which its mask yields."""
    scales: Tensor
    """`[b]`, what its contribution is multiplied with."""
    given: Tensor | None = None
    """`[b, h, w]`, a mask of the user's."""
    mode: MaskMode = "replace"
    """How the user's mask and the word's go together."""
    start: float = 0.0
    """Share of the run before which it does not act."""
    end: float = 1.0
    """Share of the run from which on it does not act any more."""

    @property
    def masked_by_word(self) -> bool:
        """Whether its mask comes from its word's attention."""
        return self.given is None or self.mode != "replace"

    def acts(self, share: float) -> bool:
        """Return whether it acts when a share of the run is done."""
        return self.start <= share < self.end


@dataclass
class Customization:
    """The subjects of the pictures of one run, and what its steps have found.

    Args:
        adapter: the trained part.
        tap: of the UNet.
        text: of each picture.
        actors: the subjects.
        grid: height and width of masks.
        evaluations: how many the run has.
        settings: of masks.
        token_ratio: gamma_num (RC 10).
    """

    adapter: RealCustomAdapter
    tap: AttentionTap
    text: TextStates
    actors: Sequence[Actor]
    grid: tuple[int, int]
    evaluations: int
    settings: MaskSettings = field(default_factory=MaskSettings)
    token_ratio: float = 0.8
    masks: list[Tensor] = field(default_factory=list)
    """`[s, b, h, w]` of every evaluation so far."""
    strengths: list[list[list[float | None]]] = field(default_factory=list)
    """How strongly each subject acted on each picture in each evaluation, against the text; None where it did not."""
    overlaps: list[Tensor] = field(default_factory=list)
    """`[s, b]`, the largest overlap of each subject's mask with another one's, before they were told apart."""
    share: float = 0.0
    """Of the run, that lies before the evaluation whose mask was found last."""
    _own: Tensor | None = None
    _relevances: Tensor | None = None
    _mask: Tensor | None = None
    _found_frames: list[Tensor] = field(default_factory=list)
    _frames: list[Tensor] = field(default_factory=list)
    _parts: dict[tuple[int, ...], tuple[TextStates, list[list[Reference]]]] = field(default_factory=dict)

    @property
    def needs_text(self) -> bool:
        """Whether the next mask comes from the words' attention, so that T2I has to run."""
        if not any(actor.masked_by_word for actor in self.actors):
            return False
        frozen_after = self.settings.mask_frozen_after
        return frozen_after == "never" or len(self.masks) < frozen_after

    @property
    def columns(self) -> Tensor:
        """All actors' columns side by side, `[b, t, k]`."""
        return torch.cat([actor.columns for actor in self.actors], dim=-1)

    def watch(self, rows_after: int = 0) -> None:
        """Let the UNet record where the words look, if a next mask comes from there.

        Args:
            rows_after: how many rows for each picture come after those in which the words look, at the end of the batch.
        """
        self.tap.watched = self.settings.mask_layers
        self.tap.word = self.columns if self.needs_text else None
        self.tap.rows_after = rows_after * len(self.text.states)

    @contextmanager
    def watching(self, wanted: bool = True, rows_after: int = 0) -> Iterator[None]:
        """Let the UNet record where the words look inside the `with` block, if that is wanted, see `watch`."""
        if wanted:
            self.watch(rows_after)
        try:
            yield
        finally:
            self.tap.word = None

    def find_mask(self, renewed: bool = True) -> Tensor:
        """Return where the subjects may act in this evaluation, `[s, b, h, w]`.

        It is made of what the UNet last recorded; the mask of the evaluation before is used again when `renewed` is False or
        the mask is frozen.
        """
        self.share = len(self.masks) / self.evaluations
        if (self.needs_text and renewed) or self._own is None:
            self._own, self._relevances, self._found_frames = self._found()
        step = frame_step(self.evaluations)
        self._frames = [
            torch.lerp(old, found, step) if actor.masked_by_word else found
            for actor, old, found in zip(
                self.actors, self._frames or self._first_frames(), self._found_frames, strict=True
            )
        ]
        self._mask = self._shared(self._own, self._relevances)
        self.masks.append(self._mask.cpu())
        self.strengths.append([[None] * self._mask.shape[1] for _ in self.actors])
        return self._mask

    def acting_rows(self) -> Tensor:
        """Return the numbers of the pictures in which TI2I can differ from T2I."""
        assert self._mask is not None
        return self._acting().any(dim=0).nonzero()[:, 0]

    def _acting(self) -> Tensor:
        """Return which subjects act on which pictures in this evaluation, `[s, b]`."""
        assert self._mask is not None
        return (self._scales() != 0) & self._mask.flatten(2).any(dim=2)

    def part(self, rows: Tensor) -> tuple[TextStates, list[list[Reference]]]:
        """Return text and references of some pictures; always the same objects for the same ones, as the text's cache needs."""
        key = tuple(rows.tolist())
        if key not in self._parts:
            every = len(rows) == len(self.text.states)
            references = [[one if every else one.rows(rows) for one in actor.references] for actor in self.actors]
            self._parts[key] = self.text if every else self.text.rows(rows), references
        return self._parts[key]

    @contextmanager
    def acting(
        self,
        noisy: Tensor,
        alpha: Tensor,
        rows: Tensor,
        others: tuple[TextStates, Sequence[Sequence[Reference]]] | None = None,
    ) -> Iterator[TextStates]:
        """Let the subjects act on some of the pictures inside the `with` block: on the last rows of the UNet's batch.

        Args:
            noisy: `[r, c, h, w]`, z_t of these pictures as the UNet receives it.
            alpha: a_t.
            rows: numbers of the pictures.
            others: another text, and references in the place of each subject's, which leave no trace in the report.

        Yields:
            Their texts.
        """
        assert self._mask is not None
        text, references = self.part(rows) if others is None else others
        scales, masks = self._scales()[:, rows].to(noisy), self._mask[:, rows].to(noisy)
        acting = [number for number in range(len(self.actors)) if bool((scales[number] != 0).any())]
        self.tap.subjects = [
            Influence(
                [self._view(number, one, text, noisy, alpha, rows, masks[number]) for one in references[number]],
                mask=masks[number],
                scale=scales[number],
            )
            for number in acting
        ]
        self.tap.strengths = {} if others is None else None
        try:
            yield text
            if self.tap.strengths:
                self._note(acting, rows, self.tap.strengths)
        finally:
            self.tap.subjects, self.tap.strengths = (), None

    def _scales(self) -> Tensor:
        """Return how strongly each subject acts in this evaluation, `[s, b]`."""
        return torch.stack([actor.scales * actor.acts(self.share) for actor in self.actors])

    def _view(
        self, number: int, one: Reference, text: TextStates, noisy: Tensor, alpha: Tensor, rows: Tensor, mask: Tensor
    ) -> View:
        positions, frames = None, self._frames[number]
        if self.adapter.log_precisions and one.frames is not None:
            assert frames is not None
            positions = place_tokens(grid_side(one.tokens.shape[1]), one.frames.to(noisy), frames[rows].to(noisy))
        view = self.adapter.act(
            one.tokens, one.keys_values, text, noisy, alpha.to(noisy).expand(len(noisy)),
            token_ratio=self.token_ratio, mask=mask, present=one.present, positions=positions,
        )  # fmt: skip
        return replace(view, share=one.share)

    def _note(self, acting: Sequence[int], rows: Tensor, strengths: Mapping[str, Tensor]) -> None:
        ratios, acts = torch.stack(list(strengths.values())).mean(dim=0), self._acting().tolist()
        for number, actor_ratios in zip(acting, ratios.tolist(), strict=True):
            for row, ratio in zip(rows.tolist(), actor_ratios, strict=True):
                if acts[number][row]:
                    self.strengths[-1][number][row] = ratio

    def _first_frames(self) -> list[Tensor]:
        """Return the frames with which a run begins: of one subject in the middle, of several, which are not, those found."""
        found = self._found_frames
        return [first_frame(*self.grid).to(one).expand_as(one) for one in found] if len(found) == 1 else found

    def _shared(self, masks: Tensor, relevances: Tensor | None) -> Tensor:
        """Return the masks `[s, b, h, w]`, their cells shared out among the subjects that act in this evaluation."""
        if len(masks) < 2 or relevances is None:
            return masks
        acting = (self._scales() != 0)[..., None, None]
        theirs = masks * acting
        self.overlaps.append(_largest_overlaps(theirs).cpu())
        return torch.where(acting, exclusive(theirs, relevances), masks)

    def _found(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the subjects' own masks and relevances `[s, b, h, w]`, and their frames."""
        relevances, found, frames = [], [], []
        for number, actor in enumerate(self.actors):
            if actor.given is not None and not actor.masked_by_word:
                relevance = mask = framing = actor.given
            else:
                relevance, mask, framing = self._masked_by_word(number, actor)
            relevances.append(relevance)
            found.append(mask)
            frames.append(frame_of(framing))
        return torch.stack(found), torch.stack(relevances), frames

    def _masked_by_word(self, number: int, actor: Actor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the relevance of a word, its mask, and the mask that frames its subject, each `[b, h, w]`."""
        settings = self.settings
        refine = partial(attended, layers=self.tap.own_attention(self.grid)) if settings.mask_refined else None
        first = sum(before.columns.shape[-1] for before in self.actors[:number])
        maps = [layer[..., first : first + actor.columns.shape[-1]] for layer in self.tap.maps.values()]
        words = [layer[..., 0] for layer in maps]
        relevance = aggregate(words, normalization=settings.mask_normalization, size=self.grid, refine=refine)
        bounded = influence_threshold if settings.mask_threshold else influence_scope
        scope = settings.scope_at(self.share)
        mask = bounded(relevance, mask_scope=scope, binary=settings.mask_binary)
        if settings.mask_yields:
            every = [rearrange(layer, "b h w k -> (b k) h w") for layer in maps]
            attention = aggregate(every, normalization="none", size=self.grid)
            mask = yielding(mask, rearrange(attention, "(b k) h w -> b h w k", b=len(mask)))
        framing = influence_scope(relevance, mask_scope=FRAME_SCOPE)
        if actor.given is not None:
            mask, framing = (combine(one, actor.given, actor.mode) for one in (mask, framing))
        return relevance, mask, framing


def _largest_overlaps(masks: Tensor) -> Tensor:
    """Return the largest overlap of each mask of `[s, b, h, w]` with another one, `[s, b]`."""
    count = len(masks)
    pairs = torch.stack(
        [torch.stack([overlap(one, other.gt(0).float()) for other in masks]) for one in masks]
    )  # [s, s, b]
    itself = torch.eye(count, dtype=torch.bool, device=masks.device)[..., None]
    return pairs.masked_fill(itself, 0.0).amax(dim=1)
