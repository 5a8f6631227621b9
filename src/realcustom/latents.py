"""Between pictures and latents, whichever of diffusers' autoencoders a model has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from jaxtyping import Float
from torch import Tensor

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC


def downscaling(vae: Autoencoder) -> int:
    """Return how many pixels a latent cell spans in each direction."""
    ratio = getattr(vae, "spatial_compression_ratio", None)
    return int(ratio or 2 ** (len(vae.config.block_out_channels) - 1))


def to_latents(vae: Autoencoder, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
    """Return the scaled latents of pixels in [-1, 1]; the mean, where the autoencoder gives a distribution."""
    with _wide_enough(vae):
        encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    mean, spread = _statistics(vae, latents)
    return (latents - mean) * vae.config.scaling_factor / spread


def to_pixels(vae: Autoencoder, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
    """Return the pixels, about [-1, 1], of scaled latents."""
    with _wide_enough(vae):
        mean, spread = _statistics(vae, latents.to(vae.dtype))
        return vae.decode(latents.to(vae.dtype) * spread / vae.config.scaling_factor + mean, return_dict=False)[0]


def _statistics(vae: Autoencoder, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Return mean and spread of an autoencoder's own latents, where its config says both, as some for SDXL do; else 0 and 1."""
    told = [getattr(vae.config, name, None) for name in ("latents_mean", "latents_std")]
    if any(one is None for one in told):
        return 0.0, 1.0
    mean, spread = (torch.tensor(one).view(1, -1, 1, 1).to(like) for one in told)
    return mean, spread


@contextmanager
def _wide_enough(vae: Autoencoder) -> Iterator[None]:
    """Let an autoencoder whose config says that float16 is too narrow for it, as that of SDXL, compute in float32."""
    narrow = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)
