"""Where the subject's tokens lie in the new picture: from the frame of the subject there and in the reference. Pure functions.

The word's mask says where the subject is to be in the new picture, and so gives its frame there; in the reference, a
portrait, its frame is known. A token that shows the subject's left ear then lies where the left ear belongs in the new
frame, and visual attention prefers tokens near each cell, so that it need not learn from nothing which part goes where.

Differs: RC's visual attention knows nothing of places; a foundation model's queries and features find each other by what
they mean, those of a small model trained on little do not.

Shapes: `b` batch, `n` heads, `q` cells, `s` tokens. Coordinates are (y, x) in units of the picture's shorter side.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from realcustom.errors import InputError

PORTRAIT = (0.5, 0.5, 0.825)
"""Frame of a subject as people photograph it: in the middle, and as large as the picture allows."""

EXTENT = 1.25
"""How much wider a thing is than the square that spreads about its centre as its mask does: what brings the frames of the
embedded model's masks to the true sizes in the mean (`validation/frame_size`)."""

FRAME_SCOPE = 0.25
"""Share of the grid whose mask gives the frame, whatever scope the subject may act in."""


FIRST_SIZE = 0.72
"""Size of the frame with which a run begins, in the middle of the picture: that of most things in the embedded model's world.
The first masks are guesses on noise."""

FRAME_PACE = 2.44
"""How fast a frame moves towards the one that the mask gives: over a whole run, in however many steps, exp(-2.44) of the way is
left. Masks of single steps jump, and a subject whose features are told to lie elsewhere in every step becomes a blot."""


def grid_centres(height: int, width: int) -> Float[Tensor, "{height*width} 2"]:
    """Return the centres of a grid's cells, (y, x), in row order; from 0 to 1 along the shorter side."""
    shorter = min(height, width)
    rows = (torch.arange(height, dtype=torch.float32) + 0.5) / shorter
    columns = (torch.arange(width, dtype=torch.float32) + 0.5) / shorter
    return torch.stack([repeat(rows, "h -> (h w)", w=width), repeat(columns, "w -> (h w)", h=height)], dim=1)


def frame_of(mask: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3"]:
    """Return the frame of what a mask covers: centre y, centre x and size.

    The size is `EXTENT` times the side of the square that spreads about its centre as the mask does; a mask that is zero
    everywhere gets the whole picture.
    """
    centres = grid_centres(mask.shape[1], mask.shape[2]).to(mask)
    weights = rearrange(mask, "b h w -> b (h w)")
    total = weights.sum(dim=1, keepdim=True)
    empty = total[:, 0] <= 0
    weights = torch.where(empty[:, None], torch.ones_like(weights), weights)
    weights = weights / weights.sum(dim=1, keepdim=True)
    centre = torch.einsum("bq,qc->bc", weights, centres)
    spread = rearrange(centres, "q c -> 1 q c") - rearrange(centre, "b c -> b 1 c")
    variance = torch.einsum("bq,bqc->bc", weights, spread.square()).mean(dim=1, keepdim=True)
    frame = torch.cat([centre, EXTENT * (12 * variance).sqrt()], dim=1)
    whole = torch.cat([centres.mean(dim=0), centres.new_ones(1)])
    return torch.where(empty[:, None], whole, frame)


def first_frame(height: int, width: int) -> Float[Tensor, " 3"]:
    """Return the frame with which a run on a grid of cells begins: centre y, centre x and size."""
    shorter = min(height, width)
    return torch.tensor([0.5 * height / shorter, 0.5 * width / shorter, FIRST_SIZE])


def frame_step(evaluations: int) -> float:
    """Return which share of the way to the mask's frame a frame goes in one of a run's evaluations of the UNet."""
    return 1 - math.exp(-FRAME_PACE / evaluations)


def portrait_box(mask: Float[Tensor, "h w"], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the part of a picture that is the portrait of what a mask covers: left, top, right and bottom in pixels.

    It is a quarter of the picture wide at least: less shows nothing that an encoder could tell.

    Args:
        mask: where the subject is.
        size: width and height of the picture, in pixels.
    """
    y, x, extent = (float(share) * min(size) for share in frame_of(mask[None])[0])
    side = min(max(round(extent / PORTRAIT[2]), min(size) // 4, 1), *size)
    left, top = (
        min(max(round(middle - side / 2), 0), length - side) for middle, length in zip((x, y), size, strict=True)
    )
    return left, top, left + side, top + side


def grid_side(tokens: int) -> int:
    """Return the side of the square grid of so many tokens, each of which has its place.

    Raises:
        InputError: they are no square.
    """
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise InputError(
            f"an adapter that places its tokens needs one for each cell of a square, but of this encoder's pictures it has "
            f"{tokens} tokens, which are no square grid; take an adapter without places (placed=False), or an encoder without "
            "a class token"
        )
    return side


def place_tokens(
    side: int, reference_frame: Float[Tensor, "b 3"], target_frame: Float[Tensor, "b 3"]
) -> Float[Tensor, "b {side*side} 2"]:
    """Return where the tokens of a square grid over the reference lie in the new picture, (y, x), also outside of it.

    Args:
        side: of the grid of tokens.
        reference_frame: centre and size of the subject in the reference.
        target_frame: centre and size of the subject in the new picture.
    """
    centres = grid_centres(side, side).to(target_frame)
    scale = target_frame[:, None, 2:] / reference_frame[:, None, 2:]
    return target_frame[:, None, :2] + scale * (centres[None] - reference_frame[:, None, :2])


def nearness(
    positions: Float[Tensor, "b s 2"], centres: Float[Tensor, "#b q 2"], precision: Float[Tensor, " n"]
) -> Float[Tensor, "b n q s"]:
    """Return what is added to the attention's logits: minus half the squared distance in units of each head's reach.

    Args:
        positions: of the tokens.
        centres: of the cells that attend to them.
        precision: for each head the inverse square of its reach, at least 0; 0 sees everywhere alike.
    """
    squared = reduce(
        (rearrange(centres, "b q c -> b q 1 c") - rearrange(positions, "b s c -> b 1 s c")).square(),
        "b q s c -> b q s",
        "sum",
    )
    return -0.5 * rearrange(precision, "n -> 1 n 1 1") * rearrange(squared, "b q s -> b 1 q s")


def initial_log_precision(heads: int, nearest: float = 1 / 16, farthest: float = 1 / 4) -> Float[Tensor, " {heads}"]:
    """Return the logarithm of the heads' precisions at the start of training: reaches from near to far, evenly in ratio."""
    reaches = torch.linspace(math.log(nearest), math.log(farthest), heads)
    return -2 * reaches
