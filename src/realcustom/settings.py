"""How a call is run: values that check themselves and tell what is wrong by the names of the pipeline's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from realcustom.checks import check_choice, check_flag, check_least, check_numbers, check_share, is_whole
from realcustom.errors import InputError
from realcustom.masks import NORMALIZATIONS, Normalization

Form = Literal["cascade", "direct"]
FORMS: tuple[Form, ...] = get_args(Form)

MaskSource = Literal["text", "encoder", "previous", "generation"]
MASK_SOURCES: tuple[MaskSource, ...] = get_args(MaskSource)

FrozenAfter = int | Literal["never"]
"""After how many evaluations, from 1, a mask is kept."""

NARROWED_FROM = 0.5
"""Share of the run from which on masks have `MaskSettings.final_mask_scope`."""


@dataclass(frozen=True)
class Guidance:
    """How predictions become one.

    Raises:
        InputError: there is no such form, or a number cannot be used.
    """

    form: Form
    """"cascade" (RC 13), or "direct" from the negative prediction to the subject's (RC++)."""
    scale: float
    """w_t."""
    subject_scale: float
    """w_i; only read by the cascade."""
    rescale: float = 0.0
    """How far the spread of the result is brought back to that of the subject's prediction, in [0, 1]."""

    def __post_init__(self) -> None:
        check_choice("guidance", self.form, FORMS)
        check_numbers({"guidance_scale": self.scale, "subject_guidance_scale": self.subject_scale})
        check_share("guidance_rescale", self.rescale)


@dataclass(frozen=True)
class MaskSettings:
    """How the word's attention becomes a mask, by the names of the pipeline's arguments.

    Raises:
        InputError: one of them cannot be used.
    """

    mask_scope: float = 0.25
    """gamma_scope, the share of the grid that is kept (RC 11), or 1 minus the lowest relevance with `mask_threshold`."""
    final_mask_scope: float = 1.0
    """What the scope is narrowed to in the second half of the run; a smaller scope stays as it is."""
    mask_normalization: Normalization = "max"
    """How the attention is scaled, see `masks.aggregate`."""
    mask_binary: bool = False
    """Give the whole scope the weight 1."""
    mask_threshold: bool = False
    """Bound the relevance instead of the number of cells, as the authors' code can."""
    mask_refined: bool = False
    """Spread the relevance along the UNet's own self-attention (RC++)."""
    mask_yields: bool = False
    """Leave cells to words after the subject's that stand out far more there, see `masks.yielding`."""
    mask_frozen_after: FrozenAfter = "never"
    """Number of evaluations after which the last mask is kept (RC++)."""
    mask_layers: tuple[str, ...] = ()
    """Beginnings of the names of the layers whose attention counts; all if there are none."""

    def __post_init__(self) -> None:
        check_share("mask_scope", self.mask_scope)
        check_share("final_mask_scope", self.final_mask_scope)
        check_choice("mask_normalization", self.mask_normalization, NORMALIZATIONS)
        for name in ("mask_binary", "mask_threshold", "mask_refined", "mask_yields"):
            check_flag(name, getattr(self, name))
        if self.mask_frozen_after != "never" and (not is_whole(self.mask_frozen_after) or self.mask_frozen_after < 1):
            raise InputError(
                f"mask_frozen_after must be 'never' or a whole number of at least 1, but is {self.mask_frozen_after!r}"
            )

    def scope_at(self, share: float) -> float:
        """Return the scope when a share of the run is done."""
        return self.mask_scope if share < NARROWED_FROM else min(self.mask_scope, self.final_mask_scope)

    def narrows(self, evaluations: int) -> bool:
        """Return whether a run of so many evaluations still finds a mask when the final scope holds."""
        last = evaluations if self.mask_frozen_after == "never" else self.mask_frozen_after
        return (last - 1) / evaluations >= NARROWED_FROM


@dataclass(frozen=True)
class Shortcuts:
    """What a run leaves out; the defaults leave nothing out.

    Raises:
        InputError: a value cannot be used.
    """

    mask_source: MaskSource = "text"
    """Where the mask of an evaluation comes from: "text", a T2I call of the same evaluation; "encoder", the same call, ended
    before the UNet decodes, the mask made of the layers before that; "previous", T2I of the evaluation before, so that
    all branches are one batch; "generation", TI2I's own attention to the text in the evaluation before, so that there is no
    T2I call but the first. "encoder" and "generation" need direct guidance, which does without T2I's prediction."""
    guidance_start: float = 0.0
    """Share of the run before which the unconditional branch is not called, so that nothing is guided away from it."""
    guidance_end: float = 1.0
    """Share of the run from which on it is not called any more."""
    cache_interval: int = 1
    """The deep blocks of the UNet run in every `cache_interval`-th evaluation; the others use their last outputs again."""

    def __post_init__(self) -> None:
        check_choice("mask_source", self.mask_source, MASK_SOURCES)
        check_share("guidance_start", self.guidance_start)
        check_share("guidance_end", self.guidance_end)
        if self.guidance_start > self.guidance_end:
            raise InputError(
                f"guidance_start is {self.guidance_start} and guidance_end is {self.guidance_end}, but the end must not come "
                "before the start"
            )
        check_least("cache_interval", self.cache_interval, 1)


@dataclass(frozen=True)
class RunSettings:
    """How one call is run, complete and checked."""

    num_inference_steps: int
    guidance: Guidance
    masks: MaskSettings
    shortcuts: Shortcuts
    token_ratio: float
    """gamma_num (RC 10)."""
