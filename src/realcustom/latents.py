"""Between pictures and latents, whichever of diffusers' autoencoders a model has."""

from __future__ import annotations

from typing import TypeAlias

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
    encoded = vae.encode(pixels.to(vae.device, vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return latents * vae.config.scaling_factor


def to_pixels(vae: Autoencoder, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
    """Return the pixels, about [-1, 1], of scaled latents."""
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
