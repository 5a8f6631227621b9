"""The branches of one denoising step, and how few UNet calls they take: unconditional, T2I and TI2I (RC section 3.3, RC 13).

What is exact is the default: T2I and the unconditional branch in one batch, then TI2I in the mask that T2I found; with direct
guidance no T2I once the mask is frozen. What is faster and not exact has to be asked for, see `Shortcuts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from realcustom.attention import cross_attention_layers
from realcustom.customization import Customization, Reference
from realcustom.errors import InputError
from realcustom.guidance import cascade_guidance, direct_guidance
from realcustom.prompts import TextStates
from realcustom.schedule import alpha_at
from realcustom.settings import Guidance, Shortcuts

ENCODER = ("down_blocks", "mid_block")
"""Beginnings of the names of the layers that a UNet calls before it decodes."""


def encoder_layers(unet: UNet2DConditionModel, asked: Sequence[str]) -> list[str]:
    """Return the cross-attention layers before the decoder of which a mask is asked for.

    Args:
        unet: has the layers.
        asked: beginnings of the names of those that give the mask; all do if there are none.

    Raises:
        InputError: none of them lies before the decoder.
    """
    names = [name for name in cross_attention_layers(unet) if name.startswith(ENCODER)]
    found = [name for name in names if name.startswith(tuple(asked) or "")]
    if not found:
        raise InputError(
            f"mask_source cannot be 'encoder' here: this model's mask comes from {', '.join(asked)}, which the UNet calls later"
        )
    return found


class DeepFeatures:
    """What a UNet's deep blocks gave the last time that they were called, for each branch.

    Deep are all blocks but the first of the encoder and the last of the decoder.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        middle = [] if unet.mid_block is None else [unet.mid_block]
        self._blocks: list[nn.Module] = [*unet.down_blocks[1:], *middle, *unet.up_blocks[:-1]]
        self._given: dict[tuple[str, int], Any] = {}

    def forget(self) -> None:
        """Forget it all: what was given long ago says nothing of what a branch that has been away would see now."""
        self._given.clear()

    @contextmanager
    def of(self, branch: str, *, fresh: bool) -> Iterator[None]:
        """Let the blocks give, inside the `with` block, what they gave in the last call of this branch, unless it is fresh."""
        before = [block.__dict__.get("forward") for block in self._blocks]
        for number, block in enumerate(self._blocks):
            block.forward = self._remembering(block.forward, (branch, number), fresh)
        try:
            yield
        finally:
            for block, own in zip(self._blocks, before, strict=True):
                if own is None:
                    del block.forward
                else:
                    block.forward = own

    def _remembering(self, forward: Callable[..., Any], key: tuple[str, int], fresh: bool) -> Callable[..., Any]:
        def remembering(*arguments: Any, **named: Any) -> Any:
            if fresh or key not in self._given:
                self._given[key] = forward(*arguments, **named)
            return self._given[key]

        return remembering


class _Done(Exception):
    """The UNet has called the layer after which nothing is wanted of it."""


@contextmanager
def ended_after(layer: nn.Module) -> Iterator[None]:
    """End a UNet call, and with it the `with` block, as soon as a layer of the UNet has been called."""

    def end(*_: Any) -> None:
        raise _Done

    handle = layer.register_forward_hook(end)
    try:
        yield
    except _Done:
        pass
    finally:
        handle.remove()


@dataclass
class Branches:
    """The UNet calls of one run.

    Args:
        unet: with the tap of the customization attached.
        alphas_cumprod: of the scheduler.
        text: of each picture.
        negative: what the unconditional branch is told.
        guidance: how predictions become one.
        evaluations: how many the run has.
        customization: the subjects; plain text-to-image without.
        negative_references: what the unconditional branch sees in the place of each subject's pictures, under the same mask;
            for direct guidance only.
        shortcuts: what is left out.
    """

    unet: UNet2DConditionModel
    alphas_cumprod: Tensor
    text: TextStates
    negative: TextStates
    guidance: Guidance
    evaluations: int
    customization: Customization | None = None
    negative_references: Sequence[Sequence[Reference]] | None = None
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    _done: int = 0
    _deep: DeepFeatures | None = None
    _joined: dict[str, TextStates] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.shortcuts.cache_interval > 1:
            self._deep = DeepFeatures(self.unet)

    def predict(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Return the guided prediction of the next evaluation, of `noisy [b, c, h, w]` as the UNet receives it."""
        subject = self.customization
        scale, rescale = float(self.guidance.scale), float(self.guidance.rescale)
        if self._deep is not None and self._fresh:
            self._deep.forget()
        try:
            if subject is None:
                unconditional, text = self._from_text(noisy, timestep)
                return direct_guidance(unconditional, text, guidance_scale=scale, guidance_rescale=rescale)
            if self.shortcuts.mask_source in ("previous", "generation"):
                three = self._in_one_batch(subject, noisy, timestep)
            elif self.guidance.form == "cascade":
                three = self._cascade(subject, noisy, timestep)
            else:
                three = self._direct(subject, noisy, timestep)
        finally:
            self._done += 1
        unconditional, text, painted = three
        if self.guidance.form == "cascade":
            return cascade_guidance(
                unconditional, text, painted,
                guidance_scale=scale, subject_guidance_scale=float(self.guidance.subject_scale), guidance_rescale=rescale,
            )  # fmt: skip
        return direct_guidance(unconditional, painted, guidance_scale=scale, guidance_rescale=rescale)

    @property
    def _guided(self) -> bool:
        """Whether the unconditional branch has any weight in this evaluation."""
        share = self._done / self.evaluations
        return self.guidance.scale != 1 and self.shortcuts.guidance_start <= share < self.shortcuts.guidance_end

    @property
    def _fresh(self) -> bool:
        """Whether the UNet's deep blocks are called in this evaluation."""
        return self._is_fresh(self._done)

    def _is_fresh(self, evaluation: int) -> bool:
        return evaluation % self.shortcuts.cache_interval == 0

    def _call(self, noisy: Tensor, timestep: Tensor, text: TextStates, branch: str) -> Tensor:
        known = nullcontext() if self._deep is None else self._deep.of(branch, fresh=self._fresh)
        with known:
            return self.unet(
                noisy, timestep, text.states, encoder_attention_mask=text.keep,
                added_cond_kwargs=dict(text.added) or None, return_dict=False,
            )[0]  # fmt: skip

    def _texts(self, names: str) -> TextStates:
        """Return the texts of several branches, "n" the negative's, "t" the prompt's; always the same object for a name."""
        if names not in self._joined:
            first, *others = ({"n": self.negative, "t": self.text}[name] for name in names)
            for other in others:
                first = first.join(other)
            self._joined[names] = first
        return self._joined[names]

    def _from_text(self, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unconditional and the T2I prediction; both are T2I's where guidance gives the former no weight."""
        if not self._guided:
            from_text = self._call(noisy, timestep, self.text, "text")
            return from_text, from_text
        unconditional, from_text = self._call(noisy.repeat(2, 1, 1, 1), timestep, self._texts("nt"), "both").chunk(2)
        return unconditional, from_text

    def _cascade(self, subject: Customization, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three predictions of RC 13: T2I, with the unconditional branch, finds the mask in which TI2I paints."""
        with subject.watching(self._fresh):
            unconditional, from_text = self._from_text(noisy, timestep)
        subject.find_mask(self._fresh)
        rows = subject.acting_rows()
        painted = self._painted(subject, noisy, timestep, rows)
        return unconditional, from_text, painted if len(rows) == len(noisy) else from_text.index_copy(0, rows, painted)

    def _direct(self, subject: Customization, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the negative prediction and TI2I's twice (RC++); T2I is run while the mask comes from it, and so far."""
        if subject.needs_text and self._fresh:
            self._look(subject, noisy, timestep)
        subject.find_mask(self._fresh)
        rows = subject.acting_rows()
        if not len(rows):
            unconditional, from_text = self._from_text(noisy, timestep)
            return unconditional, from_text, from_text
        if len(rows) == len(noisy) and self._guided and self.negative_references is None:
            unconditional, painted = self._with_unconditional(subject, noisy, timestep)
            return unconditional, painted, painted
        painted = self._painted(subject, noisy, timestep, rows)
        if len(rows) < len(noisy):
            painted = self._call(noisy, timestep, self.text, "text").index_copy(0, rows, painted)
        if not self._guided:
            return painted, painted, painted
        if self.negative_references is None:
            return self._call(noisy, timestep, self.negative, "negative"), painted, painted
        everyone = torch.arange(len(noisy), device=noisy.device)
        others = self.negative, self.negative_references
        return self._painted(subject, noisy, timestep, everyone, others), painted, painted

    def _with_unconditional(self, subject: Customization, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unconditional prediction and TI2I's of all pictures, from one call."""
        everyone = torch.arange(len(noisy), device=noisy.device)
        with subject.acting(noisy, alpha_at(self.alphas_cumprod, timestep), everyone):
            unconditional, painted = self._call(noisy.repeat(2, 1, 1, 1), timestep, self._texts("nt"), "nt").chunk(2)
        return unconditional, painted

    def _look(self, subject: Customization, noisy: Tensor, timestep: Tensor) -> None:
        """Let T2I find where the words look; it ends with the last layer that records."""
        with subject.watching():
            names = subject.tap.recording(self.unet)
            if self.shortcuts.mask_source == "encoder":
                names = [name for name in names if name.startswith(ENCODER)]
            with ended_after(self.unet.get_submodule(names[-1])):
                self._call(noisy, timestep, self.text, "mask")

    def _in_one_batch(self, subject: Customization, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the predictions of all branches from one call, in the mask of the evaluation before; the first has its own."""
        if not subject.masks and subject.needs_text:
            self._look(subject, noisy, timestep)
        subject.find_mask(self._done == 0 or self._is_fresh(self._done - 1))
        cascade, own = self.guidance.form == "cascade", self.shortcuts.mask_source == "generation"
        with_text = cascade or (subject.needs_text and not own)
        names = ("n" if self._guided else "") + ("t" if with_text else "") + "t"
        everyone = torch.arange(len(noisy), device=noisy.device)
        batch = noisy.repeat(len(names), 1, 1, 1)
        alpha = alpha_at(self.alphas_cumprod, timestep)
        with subject.acting(noisy, alpha, everyone), subject.watching(self._fresh, rows_after=0 if own else 1):
            parts = self._call(batch, timestep, self._texts(names), names).chunk(len(names))
        painted = parts[-1]
        text = parts[-2] if cascade else painted
        return parts[0] if self._guided else text, text, painted

    def _painted(
        self,
        subject: Customization,
        noisy: Tensor,
        timestep: Tensor,
        rows: Tensor,
        others: tuple[TextStates, Sequence[Sequence[Reference]]] | None = None,
    ) -> Tensor:
        """Return the TI2I prediction of some of the pictures, `[r, c, h, w]`, of other subjects if they are given."""
        if not len(rows):
            return noisy[rows]
        branch = f"{'subject' if others is None else 'others'} {rows.tolist()}"
        with subject.acting(noisy[rows], alpha_at(self.alphas_cumprod, timestep), rows, others) as text:
            return self._call(noisy[rows], timestep, text, branch)
