"""What a run says about itself: the words it found, where the subject could act, and how strongly it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from realcustom.masks import coverage
from realcustom.portrait import Portrait
from realcustom.prompts import TargetWord


@dataclass(frozen=True)
class SubjectMasks:
    """Where the subjects could act."""

    each: Tensor
    """`[n, s, b, h, w]` float32 in [0, 1]: M_hat of every UNet evaluation for each subject."""

    @property
    def steps(self) -> Tensor:
        """Where any of them could act in every UNet evaluation, `[n, b, h, w]`; of one subject, its M_hat."""
        return self.each.amax(dim=1)

    @property
    def final(self) -> Tensor:
        """The last step's masks, `[b, h, w]`; can be given back to the pipeline as `mask`."""
        return self.steps[-1]

    @property
    def coverage(self) -> Tensor:
        """Share of the cells that are not zero, `[n, b]`."""
        return torch.stack([coverage(step) for step in self.steps])

    def of(self, number: int) -> SubjectMasks:
        """Return the masks of one subject, counted from 0 in the order in which they were given."""
        return SubjectMasks(self.each[:, number : number + 1])


WEAK = 0.02
"""A subject whose attention is less than this share of the text's leaves no trace that anybody sees."""

NOWHERE, EVERYWHERE = 0.02, 0.9
"""Coverages of the mask below which there is no room for a subject, and above which nothing is left to the text."""

BURNING = 3.0
"""How many times a model's own guidance may be taken before colours burn."""


MEETING = 0.3
"""Overlap of two subjects' masks from which on one of them is likely to be lost in the other."""


@dataclass(frozen=True)
class SubjectReport:
    """What was matched, what the encoder saw, where one subject could act and how strongly it did."""

    words: Sequence[TargetWord]
    """The word of each prompt."""
    coverage: Sequence[Sequence[float]]
    """Share of the grid where the mask is not zero, for every step and picture."""
    visual_to_textual: Sequence[Sequence[float | None]]
    """For every step and picture: root mean square of the masked visual attention over that of the textual, mean over the
    layers; None where the subject did not act."""
    portraits: Sequence[Portrait] = ()
    """What the encoder saw of each picture of the subject, and how good it is."""
    overlaps: Sequence[Sequence[float]] = ()
    """For every mask that was found and every picture: its largest overlap with another subject's, before they were told
    apart; empty for a subject that is alone."""

    @property
    def name(self) -> str:
        """The subject's word, quoted."""
        return repr(self.words[0].text)

    @property
    def advice(self) -> list[str]:
        """What would make it better, a sentence each; empty if nothing is amiss."""
        shares = [float(np.mean(shares)) for shares in zip(*self.coverage, strict=True)]
        strengths = [known for known in self._mean_strengths() if known is not None]
        found = [
            f"the mask covers {share:.0%} of the picture; "
            + (
                "raise mask_scope or give a larger mask"
                if share < NOWHERE
                else "lower mask_scope or give a smaller mask"
            )
            for share in dict.fromkeys(shares)
            if share < NOWHERE or share > EVERYWHERE
        ]
        if strengths and min(strengths) < WEAK:
            found.append(
                f"the subject acted only {min(strengths):.3f} times as strongly as the text; raise subject_scale, or take a "
                "word that fits the subject better"
            )
        if (meeting := self._overlap()) > MEETING:
            found.append(
                f"the mask overlaps another subject's by {meeting:.0%}, so that they may blend; give masks, lower mask_scope, "
                "or say in the prompt where each is"
            )
        for portrait in self.portraits:
            found += [f"the subject's picture: {sentence}" for sentence in portrait.advice]
        return list(dict.fromkeys(found))

    def lines(self) -> list[str]:
        """Return the figures as people read them, a line each; the advice is not among them.

        What the mask covers and how strongly the subject acted are means over the pictures in which it acted, if there are any.
        """
        lines = [f"{word.text!r} is the word, tokens {', '.join(word.pieces)}" for word in dict.fromkeys(self.words)]
        strengths = self._mean_strengths()
        everything = range(len(strengths))
        acting = [number for number in everything if strengths[number] is not None] or everything
        covered = [f"{float(np.mean([step[number] for number in acting])):.0%}" for step in self.coverage]
        lines.append(
            f"its mask covers {covered[0]} of the picture in every step" if len(set(covered)) == 1
            else f"its mask covers, step by step, {', '.join(covered)} of the picture"
        )  # fmt: skip
        known = [strength for strength in strengths if strength is not None]
        acted = (
            f"{np.mean(known):.2f} times as strongly as the text"
            if known
            else "not at all: its scale or mask is 0, or no step lies between its start and end"
        )
        lines.append(f"in it the subject acted {acted}")
        if self.overlaps:
            lines.append(f"it overlaps another subject's by {self._overlap():.0%}")
        return lines + [line for portrait in self.portraits for line in portrait.lines()]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return {
            "words": [
                {"text": word.text, "tokens": list(word.tokens), "pieces": list(word.pieces)} for word in self.words
            ],
            "coverage": [list(step) for step in self.coverage],
            "visual_to_textual": [list(step) for step in self.visual_to_textual],
            "portraits": [portrait.to_dict() for portrait in self.portraits],
            "overlaps": [list(step) for step in self.overlaps],
        }

    def _overlap(self) -> float:
        """Return the mean overlap of the picture in which it is largest."""
        return max((float(np.mean(steps)) for steps in zip(*self.overlaps, strict=True)), default=0.0)

    def _mean_strengths(self) -> list[float | None]:
        """Return for each picture how strongly the subject acted in the steps in which it did."""
        pictures = [[one for one in steps if one is not None] for steps in zip(*self.visual_to_textual, strict=True)]
        return [float(np.mean(known)) if known else None for known in pictures]


@dataclass(frozen=True)
class Report:
    """What a run says of its subjects, and what would make its pictures better."""

    subjects: Sequence[SubjectReport]
    """In the order in which they were given."""
    guidance: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The guidance scales of the call, each with the model's own."""
    unweighted: Sequence[str] = ()
    """Those of them that the call's form of guidance does not use."""

    @property
    def advice(self) -> list[str]:
        """What would make the pictures better, a sentence each; empty if nothing is amiss."""
        several = len(self.subjects) > 1
        found = [f"{one.name}: {said}" if several else said for one in self.subjects for said in one.advice]
        found += [
            f"{name} {given:g} is more than {BURNING:g} times the model's own {own:g}, which burns colours; lower it"
            for name, (given, own) in self.guidance.items()
            if given > BURNING * own and name not in self.unweighted
        ]
        found += [
            f"{name} {given:g} had no weight, because guidance was 'direct'; take 'cascade', or set subject_scale"
            for name, (given, own) in self.guidance.items()
            if given != own and name in self.unweighted
        ]
        return found

    def lines(self) -> list[str]:
        """Return the report as people read it, a line each, the advice last."""
        lines = [line for one in self.subjects for line in one.lines()]
        return lines + [f"advice: {sentence}" for sentence in self.advice]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {"subjects": [one.to_dict() for one in self.subjects], "advice": self.advice}


@dataclass
class RealCustomOutput(BaseOutput):
    """Pictures, and what is to be said about them."""

    images: Any
    """A list of PIL pictures, or an array or tensor as `output_type` says."""
    nsfw_content_detected: list[bool] | None = None
    """Which pictures the base's safety checker blacked out; None where it has none."""
    masks: SubjectMasks | None = None
    """None where there was no subject."""
    report: Report | None = None
    """None where there was no subject."""
