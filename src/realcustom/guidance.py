"""Three-way guidance (RC 13), and the direct form of RC++. Pure functions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def cascade_guidance(
    unconditional: Float[Tensor, "*shape"],
    text: Float[Tensor, "*shape"],
    text_and_subject: Float[Tensor, "*shape"],
    *,
    guidance_scale: float,
    subject_guidance_scale: float,
) -> Float[Tensor, "*shape"]:
    """Return the guided prediction of RC 13.

    It is linear in the predictions, so it holds for noise, velocity and sample predictions alike.

    Args:
        unconditional: prediction without text and subject, or with the negative text.
        text: prediction of the T2I branch.
        text_and_subject: prediction of the TI2I branch.
        guidance_scale: w_t, how far from the unconditional towards the text.
        subject_guidance_scale: w_i, how far from the text towards the subject.
    """
    to_text = guidance_scale * (text - unconditional)
    return unconditional + to_text + subject_guidance_scale * (text_and_subject - text)


def direct_guidance(
    negative: Float[Tensor, "*shape"], positive: Float[Tensor, "*shape"], *, guidance_scale: float
) -> Float[Tensor, "*shape"]:
    """Return `negative + guidance_scale (positive - negative)`: classifier-free guidance, and RC++'s form."""
    return negative + guidance_scale * (positive - negative)
