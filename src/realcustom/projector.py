"""From an image encoder's features to the subject's tokens."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


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


def latent_features(latents: Float[Tensor, "b c h w"], patch: int = 2) -> Float[Tensor, "b i c_f"]:
    """Return a picture's latents as features: one row for each square of `patch` x `patch` cells."""
    return rearrange(latents, "b c (h y) (w x) -> b (h w) (y x c)", y=patch, x=patch)
