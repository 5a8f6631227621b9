"""From an image encoder's features to the subject's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from realcustom.errors import InputError


class FeatureProjector(nn.Module):
    """A small transformer over a grid of image features; as many tokens out as features in.

    A foundation model's features need none. The embedded model's features are patches of its own latents, which say what
    is where, but not yet what belongs to the subject.

    Args:
        feature_dim: width of the features.
        token_dim: width of the tokens.
        depth: number of layers.
        grid: side of the square grid of features.
    """

    def __init__(self, feature_dim: int, token_dim: int, depth: int, grid: int) -> None:
        super().__init__()
        self.embed = nn.Linear(feature_dim, token_dim)
        self.position = nn.Parameter(torch.randn(1, grid * grid, token_dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            token_dim, token_dim // 32, 4 * token_dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, features: Float[Tensor, "b i c_f"]) -> Float[Tensor, "b i c_i"]:
        """Return the subject's tokens."""
        return self.norm(self.layers(self.embed(features) + self.position))

    def finer(self) -> FeatureProjector:
        """Return a projector of the four quarters of each feature, whose tokens are the same where the quarters are alike.

        Features must be patches of cells, as `latent_features` makes them.
        """
        dim, quarters = self.embed.weight.shape[0], rearrange(self.embed.weight, "d (p c) -> p d c", p=4)
        grid = round(self.position.shape[1] ** 0.5)
        finer = FeatureProjector(quarters.shape[2], dim, len(self.layers.layers), 2 * grid)
        spread = repeat(self.position, "1 (h w) d -> 1 (h y w x) d", h=grid, y=2, x=2)
        state = {**self.state_dict(), "embed.weight": quarters.sum(dim=0), "position": spread}
        finer.load_state_dict(state)
        return finer


class CrossScaleProjector(nn.Module):
    """Joins features of several layers and two scales of a picture to the subject's tokens (RC++).

    The deep features of the whole picture, each attending to those of the picture at double size for detail; after them,
    as many tokens that attend to shallow layers' features of the whole picture.

    Args:
        feature_dim: width of the features.
        token_dim: width of the tokens.
        head_dim: width of one head of the attention between features.
        local: whether detail of the picture at double size is added.
        shallow: whether tokens of the shallow features are put after the others.
        adaptive_scale: whether a learned factor weights the detail.

    The authors released `local` alone and `shallow` alone; the paper's figure has both.
    """

    def __init__(
        self,
        feature_dim: int,
        token_dim: int,
        *,
        head_dim: int = 64,
        local: bool = True,
        shallow: bool = False,
        adaptive_scale: bool = False,
    ) -> None:
        super().__init__()
        self.base = nn.Linear(feature_dim, token_dim)
        self.local_attention = FeatureAttention(feature_dim, head_dim) if local else None
        self.local_mlp = _mlp(feature_dim, token_dim) if local else None
        self.shallow_attention = FeatureAttention(feature_dim, head_dim) if shallow else None
        self.shallow_mlp = _mlp(feature_dim, token_dim) if shallow else None
        self.local_scale = nn.Parameter(torch.ones(())) if local and adaptive_scale else None

    def forward(
        self,
        deep: Float[Tensor, "b i c_f"],
        local: Float[Tensor, "b l c_f"] | None = None,
        shallow: Sequence[Float[Tensor, "b i c_f"]] = (),
    ) -> Float[Tensor, "b k c_i"]:
        """Return the subject's tokens: as many as deep features, twice as many with shallow ones."""
        tokens = self.base(deep)
        if self.local_attention is not None and self.local_mlp is not None:
            detail = self.local_mlp(self.local_attention(deep, local))
            tokens = tokens + (detail if self.local_scale is None else self.local_scale * detail)
        if self.shallow_attention is None or self.shallow_mlp is None:
            return tokens
        return torch.cat(
            [tokens, self.shallow_mlp(self.shallow_attention(deep, torch.cat(list(shallow), dim=1)))], dim=1
        )


class FeatureAttention(nn.Module):
    """Attention of normed features to other normed features, without output projection and residual."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        if dim % head_dim:
            raise InputError(f"the width of the features, {dim}, must be a multiple of that of a head, {head_dim}")
        self.heads = dim // head_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(
        self, queries: Float[Tensor, "b i c_f"], features: Float[Tensor, "b l c_f"]
    ) -> Float[Tensor, "b i c_f"]:
        """Return what each query finds among the features."""
        queries, features = self.norm1(queries), self.norm2(features)
        parts = (self.to_q(queries), self.to_k(features), self.to_v(features))
        query, key, value = (rearrange(part, "b i (n d) -> b n i d", n=self.heads) for part in parts)
        return rearrange(F.scaled_dot_product_attention(query, key, value), "b n i d -> b i (n d)")


def _mlp(feature_dim: int, token_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(feature_dim, 4 * feature_dim), nn.GELU(), nn.Linear(4 * feature_dim, token_dim), nn.GELU(),
        nn.Linear(token_dim, token_dim), nn.LayerNorm(token_dim),
    )  # fmt: skip


def latent_features(latents: Float[Tensor, "b c h w"], patch: int = 2) -> Float[Tensor, "b i c_f"]:
    """Return a picture's latents as features: one row for each square of `patch` x `patch` cells."""
    return rearrange(latents, "b c (h y) (w x) -> b (h w) (y x c)", y=patch, x=patch)


def patch_side(feature_dim: int, channels: int) -> int:
    """Return the side of the patches of latents whose features are `feature_dim` wide; the usual 2 if no patch is square."""
    side = math.isqrt(feature_dim // channels)
    return side if side * side * channels == feature_dim else 2
