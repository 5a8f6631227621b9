"""Which of the subject's features act: the adaptive scoring module (RC 5-10).

Shapes: `b` batch, `t` text tokens of width `c_t`, `q` latent cells of width `c`, `i` image tokens of width `c_i`.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def weighted_pool(
    features: Float[Tensor, "b n c"], logits: Float[Tensor, "b n"], keep: Bool[Tensor, "b n"] | None = None
) -> Float[Tensor, "b c"]:
    """Pool features by the softmax of their logits (RC 5-7).

    Args:
        features: what is pooled.
        logits: `features W_a`, one number a token.
        keep: tokens that take part; all if not given. A sample that keeps none gives zeros.
    """
    if keep is not None:
        logits = logits.masked_fill(~keep, torch.finfo(logits.dtype).min)
    weights = logits.softmax(dim=1)
    if keep is not None:
        weights = weights * keep
    return torch.einsum("bn,bnc->bc", weights, features)


def fuse_scores(
    text: Float[Tensor, "b i"],
    visual: Float[Tensor, "b i"],
    alpha: Float[Tensor, " b"],
    keep: Bool[Tensor, "b i"] | None = None,
) -> Float[Tensor, "b i"]:
    """Return the softmax over tokens of `(1 - a_t) S_text + a_t S_vis` (RC 8): noisy steps trust the text.

    Args:
        text: scores by the text.
        visual: scores by the picture so far.
        alpha: a_t, the square root of the noise schedule's cumulative product, in [0, 1].
        keep: tokens that take part, the others get 0; all if not given.
    """
    share = alpha[:, None]
    scores = (1 - share) * text + share * visual
    return (scores if keep is None else scores.masked_fill(~keep, -torch.inf)).softmax(dim=1)


def strongest_tokens(scores: Float[Tensor, "b i"], *, token_ratio: float) -> Int[Tensor, "b k"]:
    """Return the indices of the Top-K tokens, in token order; K = int(token_ratio * i), at least 1 (RC 10)."""
    count = max(1, int(token_ratio * scores.shape[1]))
    return scores.topk(count, dim=1).indices.sort(dim=1).values


def strongest_present(
    scores: Float[Tensor, "b i"], present: Bool[Tensor, "b i"], *, token_ratio: float
) -> Bool[Tensor, "b i"]:
    """Return which tokens are among the Top-K of those that are present; K = int(token_ratio * their number), at least 1."""
    ranks = scores.masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    counts = (token_ratio * present.sum(dim=1, keepdim=True)).long().clamp(min=1)
    return present & (ranks < counts)


class ScoringModule(nn.Module):
    """Scores each image token by the text and by the picture so far (RC 5-8)."""

    def __init__(self, text_dim: int, latent_channels: int, image_dim: int, hidden_dim: int = 128) -> None:
        super().__init__()
        self.text_attention = nn.Linear(text_dim, 1, bias=False)
        self.visual_attention = nn.Linear(latent_channels, 1, bias=False)
        self.text_scores = nn.Sequential(
            nn.Linear(text_dim + image_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 1)
        )
        self.visual_scores = nn.Sequential(
            nn.Linear(latent_channels + image_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 1)
        )

    def forward(
        self,
        text: Float[Tensor, "b t c_t"],
        latents: Float[Tensor, "b c h w"],
        image: Float[Tensor, "b i c_i"],
        alpha: Float[Tensor, " b"],
        *,
        text_keep: Bool[Tensor, "b t"] | None = None,
        image_keep: Bool[Tensor, "b i"] | None = None,
        mask: Float[Tensor, "b h w"] | None = None,
    ) -> Float[Tensor, "b i"]:
        """Return S, positive and summing to 1 over the tokens (RC 5-8).

        Args:
            text: the prompt's token features f_ct.
            latents: z_t as the UNet receives it.
            image: the subject's token features f_ci.
            alpha: a_t of each sample.
            text_keep: tokens that are not padding; all if not given.
            image_keep: likewise, of the subject.
            mask: M_hat on the latent's grid; multiplies the latent, and cells where it is zero take no part in RC 6.
                Differs: in the paper they keep their softmax weight although training never saw such cells.
        """
        cells, keep = rearrange(latents, "b c h w -> b (h w) c"), None
        if mask is not None:
            weight = rearrange(mask, "b h w -> b (h w)")
            cells, keep = cells * weight[..., None], weight > 0
        text_context = weighted_pool(text, self.text_attention(text)[..., 0], text_keep)
        visual_context = weighted_pool(cells, self.visual_attention(cells)[..., 0], keep)
        by_text, by_picture = (
            net(torch.cat([image, repeat(context, "b c -> b i c", i=image.shape[1])], dim=-1))[..., 0]
            for net, context in ((self.text_scores, text_context), (self.visual_scores, visual_context))
        )
        return fuse_scores(by_text, by_picture, alpha, image_keep)
