from __future__ import annotations

import numpy as np
import pytest
import torch

from realcustom.errors import InputError
from realcustom.masks import (
    NORMALIZATIONS,
    aggregate,
    chance_of_overlap,
    coverage,
    exclusive,
    influence_scope,
    influence_threshold,
    overlap,
    resize_mask,
    yielding,
)
from reference import masks as reference


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    ("batch", "shapes", "size"),
    [(2, [(6, 4), (3, 2), (6, 4)], None), (3, [(5, 7), (3, 4), (2, 2)], (5, 7)), (1, [(4, 4), (2, 2)], (3, 9))],
)
def test_aggregate_is_the_reference(normalization, batch, shapes, size):
    maps = [torch.rand(batch, *shape) for shape in shapes]
    found = aggregate(maps, normalization=normalization, size=size)
    for row in range(batch):
        layers = [layer[row].double().numpy() for layer in maps]
        expected = reference.aggregate(layers, normalization, *(size or shapes[0]))
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_a_cell_in_which_another_word_stands_out_far_more_is_left_to_it():
    mask = torch.tensor([[[1.0, 0.7, 1.0, 1.0, 0.0, 0.5]]])
    own = torch.tensor([[[0.2, 0.2, 0.2, 0.1, 0.2, 0.3]]])  # of its mean .2: 1, 1, 1, .5, 1, 1.5
    hat = torch.tensor([[[0.01, 0.21, 0.19, 0.0, 0.19, 0.0]]])  # of its mean .1: .1, 2.1, 1.9, 0, 1.9, 0
    beach = torch.tensor([[[0.5, 0.5, 0.5, 0.6, 0.5, 0.4]]])  # everywhere: 1, 1, 1, 1.2, 1, .8
    expected = [[[1, 0, 1, 0, 0, 0.5]]]
    assert yielding(mask, torch.stack([own, hat, beach], dim=-1)).tolist() == expected
    assert yielding(mask, torch.stack([own / 9, torch.zeros_like(own), hat, beach], dim=-1)).tolist() == expected
    assert torch.equal(yielding(mask, own[..., None]), mask)


def test_a_cell_is_shared_by_the_fourth_powers_of_the_relevances():
    relevances = torch.tensor([0.6, 0.5, 0.3, 0.6, 0.0, 0.3, 0.5, 0.3, 0.6, 0.0]).view(2, 1, 1, 5)
    masks = torch.tensor([0.5, 0.5, 0.0, 0.5, 0.5, 0.8, 0.8, 0.8, 0.0, 0.8]).view(2, 1, 1, 5)
    # .6 and .3 are as 16 to 1; equal ones are halves, two zeros too; where one mask alone is, nothing is shared
    expected = [[0.5 * 16 / 17, 0.25, 0, 0.5, 0.25], [0.8 / 17, 0.4, 0.8, 0, 0.4]]
    torch.testing.assert_close(exclusive(masks, relevances)[:, 0, 0], torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("ours", ["influence_scope", "influence_threshold"])
@pytest.mark.parametrize(("shape", "mask_scope"), [((2, 5, 7), 0.25), ((3, 4, 4), 0.5), ((1, 9, 2), 0.99)])
def test_scope_and_threshold_are_the_reference(ours, shape, mask_scope, binary):
    relevance = torch.rand(shape)
    found = {"influence_scope": influence_scope, "influence_threshold": influence_threshold}[ours](
        relevance, mask_scope=mask_scope, binary=binary
    )
    for row, grid in zip(found, relevance.numpy(), strict=True):
        np.testing.assert_array_equal(row, getattr(reference, ours)(grid, mask_scope, binary))


def test_the_finest_map_sets_the_grid():
    assert aggregate([torch.rand(1, 2, 3), torch.rand(1, 4, 6), torch.rand(1, 2, 3)]).shape == (1, 4, 6)


def test_every_layer_counts_the_same_whatever_its_resolution():
    coarse, fine = torch.full((1, 2, 2), 3.0), torch.full((1, 8, 8), 1.0)
    assert torch.equal(aggregate([coarse, fine], normalization="none"), torch.full((1, 8, 8), 2.0))


def test_max_divides_each_sample_by_its_own_peak():
    ramp = torch.arange(1.0, 7.0).reshape(1, 2, 3)
    relevance = aggregate([torch.cat([ramp, 100 * ramp])])
    torch.testing.assert_close(relevance, (ramp / 6).expand(2, 2, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_map_of_zeros_stays_finite(normalization):
    assert torch.equal(aggregate([torch.zeros(1, 3, 3)], normalization=normalization), torch.zeros(1, 3, 3))


def test_no_maps_is_an_error():
    with pytest.raises(InputError, match="no attention map to average"):
        aggregate([])


def test_scope_keeps_the_top_of_a_ramp():
    ramp = torch.arange(12.0).reshape(1, 3, 4)
    assert influence_scope(ramp, mask_scope=0.26).nonzero().tolist() == [[0, 2, 1], [0, 2, 2], [0, 2, 3]]


@pytest.mark.parametrize("count", [0, 1, 31, 1199, 1200])
def test_ties_are_kept_in_cell_order_and_exactly_counted(count):
    kept = influence_scope(torch.ones(2, 30, 40), mask_scope=min(1.0, (count + 0.5) / 1200))
    assert torch.equal(kept.flatten(1), (torch.arange(1200) < count).float().expand(2, 1200))


@pytest.mark.parametrize("binary", [False, True])
def test_scope_0_is_nothing_and_scope_1_is_everything(binary):
    relevance = torch.rand(2, 3, 5) + 0.1
    assert not influence_scope(relevance, mask_scope=0, binary=binary).any()
    expected = torch.ones_like(relevance) if binary else relevance
    assert torch.equal(influence_scope(relevance, mask_scope=1, binary=binary), expected)


def test_threshold_keeps_a_cell_on_the_bound_only_when_soft():
    relevance = torch.tensor([[[0.25, 0.5, 0.75]]])
    assert influence_threshold(relevance, mask_scope=0.5).tolist() == [[[0, 0.5, 0.75]]]
    assert influence_threshold(relevance, mask_scope=0.5, binary=True).tolist() == [[[0, 0, 1]]]


def test_resizing_keeps_a_linear_ramp_linear_and_leaves_the_same_size_alone():
    ramp = torch.arange(8.0).expand(1, 6, 8)
    assert resize_mask(ramp, (6, 8)) is ramp
    torch.testing.assert_close(resize_mask(ramp, (3, 4)), torch.tensor([0.5, 2.5, 4.5, 6.5]).expand(1, 3, 4))


def test_coverage_and_overlap_of_known_masks():
    mask = torch.zeros(2, 2, 4)
    mask[0, 0] = 0.1
    region = torch.zeros(2, 2, 4)
    region[0, :, :2] = 0.5
    assert coverage(mask).tolist() == [0.5, 0]
    assert overlap(mask, region).tolist() == pytest.approx([2 / 6, 0])


def test_the_chance_of_overlap_is_that_of_random_masks():
    region, kept = torch.zeros(1, 16, 16), 64
    region[:, 3:11, 4:12] = 1
    found = []
    for _ in range(400):
        mask = torch.zeros(256)
        mask[torch.randperm(256)[:kept]] = 1
        found.append(float(overlap(mask.view(1, 16, 16), region)))
    assert chance_of_overlap(kept / 256, 64 / 256) == pytest.approx(np.mean(found), abs=0.01)
    assert chance_of_overlap(0.0, 0.0) == 0
