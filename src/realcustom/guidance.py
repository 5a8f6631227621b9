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
    guidance_rescale: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """Return the guided prediction of RC 13.

    It is linear in the predictions, so it holds for noise, velocity and sample predictions alike.

    Args:
        unconditional: prediction without text and subject, or with the negative text.
        text: prediction of the T2I branch.
        text_and_subject: prediction of the TI2I branch.
        guidance_scale: w_t, how far from the unconditional towards the text.
        subject_guidance_scale: w_i, how far from the text towards the subject.
        guidance_rescale: how far the result's spread is brought back to that of TI2I, in [0, 1]; the paper does not.
    """
    to_text = guidance_scale * (text - unconditional)
    guided = unconditional + to_text + subject_guidance_scale * (text_and_subject - text)
    return _rescaled(guided, text_and_subject, guidance_rescale) if guidance_rescale else guided


def direct_guidance(
    negative: Float[Tensor, "*shape"],
    positive: Float[Tensor, "*shape"],
    *,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """Return `negative + guidance_scale (positive - negative)`: classifier-free guidance, and RC++'s form.

    `guidance_rescale` says how far the result's spread is brought back to that of `positive`, in [0, 1].
    """
    guided = negative + guidance_scale * (positive - negative)
    return _rescaled(guided, positive, guidance_rescale) if guidance_rescale else guided


def _rescaled(guided: Tensor, like: Tensor, share: float) -> Tensor:
    """Bring the standard deviation of each sample of `guided` closer to that of `like`, by `share` of the way in ratio."""
    dims = tuple(range(1, guided.ndim))
    ratio = like.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (1 - share + share * ratio)
