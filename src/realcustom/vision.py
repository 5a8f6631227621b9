"""What a subject's picture looks like to an image encoder: the features that become the subject's tokens.

The embedded model reads its own latents (`projector.latent_features`), an adapter of RC a CLIP encoder, one of RC++ SigLIP
and DINOv2 together, at two scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from realcustom.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection, Dinov2WithRegistersModel, SiglipVisionModel

OF_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OF_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_OF_SIGLIP = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and standard deviation of the pixels that each encoder was trained with."""


class ImageFeatures(NamedTuple):
    """Features of `b` pictures; the latter two for adapters of RC++ only."""

    deep: Float[Tensor, "b i c_f"]
    """Of a late layer, of the whole picture."""
    local: Float[Tensor, "b l c_f"] | None = None
    """The same of the picture at double size: four tokens for each of `deep`."""
    shallow: tuple[Float[Tensor, "b i c_f"], ...] = ()
    """Of earlier layers, of the whole picture."""


def clip_features(
    pixels: Float[Tensor, "b 3 H W"], encoder: CLIPVisionModel | CLIPVisionModelWithProjection
) -> ImageFeatures:
    """Return the last but one hidden states of a CLIP image encoder, class token first.

    Args:
        pixels: square pictures in [0, 1].
        encoder: its own size is taken.
    """
    side = encoder.config.image_size
    resized = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    states = encoder(normalized(resized, OF_CLIP).to(encoder.dtype), output_hidden_states=True).hidden_states
    return ImageFeatures(states[-2])


def twin_features(
    pixels: Float[Tensor, "b 3 H W"],
    siglip: SiglipVisionModel,
    dino: Dinov2WithRegistersModel,
    *,
    siglip_layers: Sequence[int],
    dino_layers: Sequence[int],
) -> ImageFeatures:
    """Return the features of SigLIP and DINOv2, side by side, of the picture and of the picture at double size (RC++).

    Args:
        pixels: square pictures in [0, 1].
        siglip: its `image_size` is that of the whole picture for both; twice that is cut into four interleaved pictures.
        dino: with registers.
        siglip_layers: numbers of the transformer layers from 0 whose raw outputs are taken; the last is the deep one, those
            before it are the shallow ones.
        dino_layers: as many of the other encoder.

    Raises:
        InputError: the layers are not there, or not as many of both.
    """
    _check_layers(siglip.config.num_hidden_layers, siglip_layers, "SigLIP")
    _check_layers(dino.config.num_hidden_layers, dino_layers, "DINOv2")
    if len(siglip_layers) != len(dino_layers):
        raise InputError(
            f"as many layers of both encoders are needed, not {list(siglip_layers)} and {list(dino_layers)}"
        )
    side = siglip.config.image_size
    doubled = F.interpolate(pixels, (2 * side, 2 * side), mode="bilinear", align_corners=False)
    whole = F.interpolate(doubled, (side, side), mode="bilinear", align_corners=True)
    parts = rearrange(doubled, "b c (h y) (w x) -> (b y x) c h w", y=2, x=2)
    layers = _side_by_side(whole, siglip, dino, siglip_layers, dino_layers)
    local = _side_by_side(parts, siglip, dino, siglip_layers[-1:], dino_layers[-1:])[0]
    return ImageFeatures(layers[-1], rearrange(local, "(b y x) i c -> b (i y x) c", y=2, x=2), tuple(layers[:-1]))


def _side_by_side(
    pixels: Tensor,
    siglip: SiglipVisionModel,
    dino: Dinov2WithRegistersModel,
    siglip_layers: Sequence[int],
    dino_layers: Sequence[int],
) -> list[Tensor]:
    levels = (pixels * 255 + 1e-3).floor().clamp(
        0, 255
    ) / 255  # of 8 bits, as the encoders were fed; rounding is no level
    by_siglip = siglip(normalized(levels, _OF_SIGLIP).to(siglip.dtype), output_hidden_states=True).hidden_states
    by_dino = dino(normalized(levels, OF_IMAGENET).to(dino.dtype), output_hidden_states=True).hidden_states
    beside_patches = 1 + dino.config.num_register_tokens
    return [
        torch.cat([by_siglip[one + 1], by_dino[other + 1][:, beside_patches:].to(by_siglip[one + 1])], dim=-1)
        for one, other in zip(siglip_layers, dino_layers, strict=True)
    ]


def normalized(
    pixels: Float[Tensor, "*b 3 h w"], statistics: tuple[Sequence[float], Sequence[float]]
) -> Float[Tensor, "*b 3 h w"]:
    """Return pixels in [0, 1] less a mean, over a standard deviation, each of them one number a channel."""
    mean, deviation = (pixels.new_tensor(list(values)).view(3, 1, 1) for values in statistics)
    return (pixels - mean) / deviation


def _check_layers(count: int, layers: Sequence[int], name: str) -> None:
    if not layers or not all(0 <= layer < count for layer in layers):
        raise InputError(f"{name} has layers 0 to {count - 1}, but {list(layers)} are asked for")
