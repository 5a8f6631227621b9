"""Where the subject may act: the target word's attention becomes a soft mask (RC 11, 12; RC++). Pure functions.

Shapes: `b` batch, `h w` a grid of latent cells, `q = h w` cells in row order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from realcustom.errors import InputError

Normalization = Literal["max", "min_max", "min_max_per_layer", "none"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

MaskMode = Literal["replace", "intersect", "union"]
"""How a given mask and the word's go together."""
MASK_MODES: tuple[MaskMode, ...] = get_args(MaskMode)

YIELDS_TO = 2.0
"""How many times as much as the subject's another word must stand out in a cell, so that a mask leaves the cell to it."""

_EPSILON = 1e-6
"""Keeps an all-zero map finite; the authors add the same number, so a peak is a little below 1."""


def resize_mask(mask: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b H W"]:
    """Return the mask on another grid of `size` (height, width), bilinearly interpolated between cell centres."""
    if mask.shape[-2:] == size:
        return mask
    return F.interpolate(mask[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def resize_mask_by_height(mask: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b H W"]:
    """Return the mask on another grid as the authors' layers do: columns are sampled at the ratio of the rows.

    Differs from `resize_mask` where rows and columns shrink by different ratios.

    Raises:
        InputError: the ratio of the rows does not give the columns that are needed; there the authors' code crashes.
    """
    ratio = size[0] / mask.shape[1]
    resized = F.interpolate(mask[:, None], scale_factor=ratio, mode="bilinear", align_corners=False)[:, 0]
    if tuple(resized.shape[1:]) != size:
        raise InputError(
            f"the authors' way to resize masks cannot bring {tuple(mask.shape[1:])} to {size}; take pictures whose sides are "
            f"multiples of 32 pixels, or leave compat out"
        )
    return resized


def area_mask(mask: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b H W"]:
    """Return the mask on a coarser grid of `size` (height, width): the mean of what each cell covers."""
    return F.interpolate(mask[:, None].float(), size, mode="area")[:, 0]


def _min_max(relevance: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    low, high = relevance.amin(dim=(1, 2), keepdim=True), relevance.amax(dim=(1, 2), keepdim=True)
    return (relevance - low) / (high - low + _EPSILON)


def attended(
    relevance: Float[Tensor, "b h w"], layers: Sequence[tuple[Float[Tensor, "b n q d"], Float[Tensor, "b n q d"]]]
) -> Float[Tensor, "b h w"]:
    """Let the relevance of every cell be that of the cells that it attends to, the mean over all heads of all layers (RC++).

    The maps between all cells are never made.

    Args:
        relevance: of every cell.
        layers: queries and keys of each layer's self-attention, on the relevance's own grid.
    """
    values = rearrange(relevance, "b h w -> b 1 (h w) 1")
    found = [
        F.scaled_dot_product_attention(query, key, values.to(key).expand(-1, key.shape[1], -1, -1)).float()
        for query, key in layers
    ]
    return torch.cat(found, dim=1).mean(dim=1)[..., 0].view_as(relevance)


def _normalized(relevance: Float[Tensor, "b h w"], normalization: Normalization) -> Float[Tensor, "b h w"]:
    if normalization == "max":
        return relevance / (relevance.amax(dim=(1, 2), keepdim=True) + _EPSILON)
    return relevance if normalization == "none" else _min_max(relevance)


def aggregate(
    maps: Sequence[Float[Tensor, "b _ _"]],
    *,
    normalization: Normalization = "max",
    size: tuple[int, int] | None = None,
    refine: Callable[[Float[Tensor, "b h w"]], Float[Tensor, "b h w"]] | None = None,
) -> Float[Tensor, "b h w"]:
    """Average the word's attention over all cross-attention layers (RC section 3.3), every layer counting the same.

    Args:
        maps: one map a layer, already averaged over heads and summed over the word's tokens; at least 0.
        normalization: "max" divides the average by its largest value (RC 11); "min_max" stretches it to [0, 1];
            "min_max_per_layer" stretches each layer's map before averaging, and the average again; "none" leaves it.
        size: grid of the result (height, width); the finest of the maps if not given.
        refine: what is done to the average before it is scaled, such as `attended` (RC++).

    Returns:
        The word's relevance for each cell, for each sample on its own.

    Raises:
        InputError: there are no maps.
    """
    if not maps:
        raise InputError("there is no attention map to average; was the text branch run with recording on?")
    finest = max(((layer.shape[1], layer.shape[2]) for layer in maps), key=lambda shape: shape[0] * shape[1])
    resized = [resize_mask(layer, size or finest) for layer in maps]
    if normalization == "min_max_per_layer":
        resized = [_min_max(layer) for layer in resized]
    relevance = torch.stack(resized).mean(dim=0)
    if refine is not None:
        relevance = refine(relevance)
    return _normalized(relevance, normalization)


def influence_scope(
    relevance: Float[Tensor, "b h w"], *, mask_scope: float, binary: bool = False
) -> Float[Tensor, "b h w"]:
    """Keep each sample's most relevant cells and zero the rest (RC 11).

    Args:
        relevance: how much each cell attends to the word; at least 0.
        mask_scope: gamma_scope, the share of the cells to keep, in [0, 1]; the count is rounded down.
        binary: give every kept cell the value 1 instead of its relevance.

    Returns:
        The mask M_hat. Exactly `int(mask_scope * h * w)` cells are kept; those of equal relevance in cell order.
    """
    flat = rearrange(relevance, "b h w -> b (h w)")
    count = int(mask_scope * flat.shape[1])
    kept = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    scope = torch.zeros_like(flat).scatter(1, kept, 1.0)
    return rearrange(scope if binary else flat * scope, "b (h w) -> b h w", h=relevance.shape[1])


def influence_threshold(
    relevance: Float[Tensor, "b h w"], *, mask_scope: float, binary: bool = False
) -> Float[Tensor, "b h w"]:
    """Zero every cell whose relevance is below `1 - mask_scope`, the authors' other way to bound the scope.

    With `binary` a cell must lie strictly above the bound and gets the value 1.
    """
    bound = 1 - mask_scope
    return (relevance > bound).to(relevance) if binary else relevance * (relevance >= bound)


def yielding(mask: Float[Tensor, "b h w"], attention: Float[Tensor, "b h w n"]) -> Float[Tensor, "b h w"]:
    """Leave every cell that another word of the prompt stands out in far more than the subject's to that word.

    What the sentence puts on the subject, or in front of it, is then not painted over. How much a word stands out in a cell
    is the attention to it there over its mean in the whole grid, so that words that are attended to everywhere take nothing.

    Args:
        mask: where the subject may act.
        attention: to the subject's word, then to other words, as `aggregate` averages it with the normalization "none"; 0
            everywhere where a prompt has fewer of them.

    Returns:
        The mask without the cells in which some word stands out more than `YIELDS_TO` times as much as the subject's.
    """
    standing_out = attention / (attention.mean(dim=(1, 2), keepdim=True) + _EPSILON)
    return mask * ~(standing_out[..., 1:] > YIELDS_TO * standing_out[..., :1]).any(dim=-1)


def combine(found: Float[Tensor, "b h w"], given: Float[Tensor, "b h w"], mode: MaskMode) -> Float[Tensor, "b h w"]:
    """Return the mask of a word and one that somebody gave as one: the given, the smaller or the larger in each cell."""
    if mode == "replace":
        return given
    return torch.minimum(found, given) if mode == "intersect" else torch.maximum(found, given)


def exclusive(
    masks: Float[Tensor, "s b h w"], relevances: Float[Tensor, "s b h w"], *, sharpness: float = 4.0
) -> Float[Tensor, "s b h w"]:
    """Share every cell among the subjects whose masks meet there, so that no two act in full on one cell.

    Each gets its relevance to the power `sharpness` over the sum of those of all that are there: nearly all where its word
    is clearly meant, halves where two words are meant alike, so that the border between two subjects is soft. A cell that
    lies in one mask only is left as it is.
    """
    strength = (masks > 0) * (relevances.clamp(min=0) + _EPSILON) ** sharpness
    alone = (masks > 0).sum(dim=0) < 2
    return torch.where(alone, masks, masks * strength / strength.sum(dim=0).clamp(min=torch.finfo(masks.dtype).tiny))


def coverage(mask: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Return the share of cells that are not zero, for each sample."""
    return (mask > 0).float().mean(dim=(1, 2))


def chance_of_overlap(one: float, other: float) -> float:
    """Return the `overlap` to be expected of a random mask that covers the share `one` of a grid, `other` being the region's.

    It is the ratio of the expected intersection to the expected union.
    """
    both = one * other
    return both / (one + other - both) if one + other > 0 else 0.0


def overlap(mask: Float[Tensor, "b h w"], region: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Return the intersection over union of the cells where `mask > 0` with those where `region >= 0.5`, for each sample."""
    one, other = mask > 0, region >= 0.5
    union = (one | other).sum(dim=(1, 2)).clamp(min=1)
    return (one & other).sum(dim=(1, 2)) / union
