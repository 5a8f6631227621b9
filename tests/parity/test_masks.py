from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from parity.official import about, tensors
from realcustom.masks import aggregate, attended, influence_scope, influence_threshold

NAMES = {"max_norm": "max", "min_max_norm": "min_max", "min_max_per_channel": "min_max_per_layer"}
"""The authors' names of the normalizations, and ours."""

CONFIG = about("masks")["config"]
CASES = about("masks")["cases"]


def named(modes, prefix=""):
    """Return our name of the normalization that the authors' strategy asks for."""
    return next((ours for theirs, ours in NAMES.items() if f"{prefix}{theirs}" in modes), "none")


def layers(kind):
    golden = tensors("masks")
    return [golden[f"{kind}.{number}"] for number in range(sum(key.startswith(f"{kind}.") for key in golden))]


def word_maps(target_token):
    word = tensors("masks")[target_token].float()
    return [torch.einsum("bnthw,t->bhw", layer, word[0]) / layer.shape[1] for layer in layers("cross")]


def stretched(maps):
    """Stretch each map `[b, h, w]` to [0, 1]."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-6)


def affinity(self_maps, size, normalization="none"):
    """How much each cell attends to each other one, `[b, q, q]`: the mean of maps `[b, n, q, k]` that are really made."""
    cells, heads = size[0] * size[1], []
    for layer in self_maps:
        resized = F.interpolate(layer, (cells, cells), mode="bilinear")  # as if a map were a picture
        flat = resized.flatten(0, 1)
        heads.append((stretched(flat) if normalization == "min_max_per_layer" else flat).view_as(resized))
    mean = torch.cat(heads, dim=1).mean(dim=1)
    if normalization == "max":
        return mean / (mean.amax(dim=(1, 2), keepdim=True) + 1e-6)
    return stretched(mean) if normalization == "min_max" else mean


def spread(relevance, affinity):
    """The relevance of every cell becomes that of the cells that it attends to."""
    return torch.einsum("bqk,bk->bq", affinity, relevance.flatten(1)).view_as(relevance)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].removeprefix("out."))
def test_masks(case):
    modes, target = case["mask_mode"], tuple(CONFIG["target"])
    refine = None
    if case["self_maps"] and named(modes) != "none":  # the authors leave it out there
        related = affinity(layers("self"), target, normalization=named(modes, "selfmap_"))
        refine = partial(spread, affinity=related)
    relevance = aggregate(word_maps(case["target_token"]), normalization=named(modes), size=target, refine=refine)
    bounded = influence_threshold if "threshold" in modes else influence_scope
    found = bounded(relevance, mask_scope=case["mask_scope"], binary="binary" in modes)
    expected = tensors("masks")[case["name"]][:, 0]
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_case_of_the_file_is_compared():
    assert {case["name"] for case in CASES} == {key for key in tensors("masks") if key.startswith("out.")}
    assert CASES


@pytest.mark.parametrize("normalization", ["max", "min_max", "min_max_per_layer"])
def test_spreading_without_the_maps_is_spreading_with_them(normalization):
    """Layers on the mask's own grid; queries and keys are made so that their softmax is known."""
    torch.manual_seed(0)
    height, width, heads, dim = 5, 4, 2, 3
    queries = [
        (torch.randn(2, heads, height * width, dim), torch.randn(2, heads, height * width, dim)) for _ in range(2)
    ]
    maps = [torch.softmax(torch.einsum("bnqd,bnkd->bnqk", q, k) * dim**-0.5, dim=-1) for q, k in queries]
    words = [torch.rand(2, height, width), torch.rand(2, 2, 2)]
    size = (height, width)
    with_maps = aggregate(
        words, normalization=normalization, size=size, refine=partial(spread, affinity=affinity(maps, size))
    )
    without = aggregate(words, normalization=normalization, size=size, refine=partial(attended, layers=queries))
    torch.testing.assert_close(without, with_maps, atol=1e-5, rtol=1e-4)
