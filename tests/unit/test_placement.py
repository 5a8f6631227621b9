from __future__ import annotations

import numpy as np
import pytest
import torch

from realcustom.placement import (
    EXTENT,
    PORTRAIT,
    first_frame,
    frame_of,
    grid_centres,
    initial_log_precision,
    nearness,
    place_tokens,
    portrait_box,
)


def box(height, width, top, left, side):
    mask = torch.zeros(1, height, width)
    mask[0, top : top + side, left : left + side] = 1
    return mask


def test_the_centres_of_a_grid_are_in_row_order_and_inside_their_cells():
    centres = grid_centres(2, 4)
    assert centres.shape == (8, 2)
    torch.testing.assert_close(centres[0], torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(centres[1], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(centres[-1], torch.tensor([0.75, 1.75]))


@pytest.mark.parametrize(("top", "left", "side"), [(0, 0, 8), (4, 20, 12), (10, 3, 20)])
def test_the_frame_of_a_square_is_the_square(top, left, side):
    frame = frame_of(box(40, 40, top, left, side))[0]
    torch.testing.assert_close(frame[:2], torch.tensor([top + side / 2, left + side / 2]) / 40)
    assert float(frame[2] / EXTENT) == pytest.approx(side / 40, rel=0.02)


def test_a_frame_is_the_weighted_mean_and_spread_of_its_mask():
    mask = torch.rand(2, 5, 7)
    for row, frame in enumerate(frame_of(mask)):
        weights = mask[row].double().numpy() / float(mask[row].double().sum())
        ys, xs = np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(7) + 0.5) / 5, indexing="ij")
        y, x = (weights * ys).sum(), (weights * xs).sum()
        variance = ((weights * (ys - y) ** 2).sum() + (weights * (xs - x) ** 2).sum()) / 2
        np.testing.assert_allclose(frame, [y, x, EXTENT * np.sqrt(12 * variance)], rtol=1e-4)


def test_units_are_those_of_the_shorter_side():
    centres = grid_centres(4, 8)
    assert float(centres[:, 0].max()) < 1 < float(centres[:, 1].max()) < 2
    wide = torch.zeros(1, 40, 80)
    wide[0, 10:30, 50:70] = 1
    frame = frame_of(wide)[0]
    torch.testing.assert_close(frame[:2], torch.tensor([0.5, 1.5]))
    assert float(frame[2] / EXTENT) == pytest.approx(0.5, rel=0.02)
    torch.testing.assert_close(frame_of(torch.zeros(1, 4, 8)), torch.tensor([[0.5, 1.0, 1.0]]))


@pytest.mark.parametrize("grid", [(4, 4), (4, 8), (9, 3)])
def test_a_run_begins_with_a_frame_in_the_middle(grid):
    torch.testing.assert_close(first_frame(*grid)[:2], frame_of(torch.ones(1, *grid))[0, :2])


def test_an_empty_mask_gets_the_whole_picture_and_leaves_its_neighbours_alone():
    masks = torch.cat([torch.zeros(1, 8, 8), box(8, 8, 2, 2, 4)])
    frames = frame_of(masks)
    torch.testing.assert_close(frames[0], torch.tensor([0.5, 0.5, 1.0]))
    torch.testing.assert_close(frames[1], frame_of(masks[1:])[0])


def test_tokens_lie_where_they_are_if_the_frames_are_alike():
    frames = torch.tensor([[0.4, 0.7, 0.3], [0.5, 0.5, 1.0]])
    positions = place_tokens(8, frames, frames)
    torch.testing.assert_close(positions, grid_centres(8, 8).expand(2, -1, -1))


def test_a_token_moves_and_shrinks_with_the_frame():
    reference, target = torch.tensor([[0.5, 0.5, 0.8]]), torch.tensor([[0.2, 0.6, 0.4]])
    positions = place_tokens(2, reference, target)
    # The token at (.25, .75) lies (-.25, .25) from the centre; at half the size that is (-.125, .125).
    torch.testing.assert_close(positions[0, 1], torch.tensor([0.075, 0.725]))


def test_nearness_falls_with_the_square_of_the_distance_in_each_heads_reach():
    positions, reach = torch.rand(2, 5, 2), torch.tensor([0.1, 0.5])
    found = nearness(positions, grid_centres(3, 4)[None], reach**-2)
    assert found.shape == (2, 2, 12, 5)
    cells = grid_centres(3, 4)
    for sample, head, cell, token in [(0, 0, 0, 0), (1, 0, 7, 3), (1, 1, 11, 4)]:
        distance = float((cells[cell] - positions[sample, token]).norm())
        assert float(found[sample, head, cell, token]) == pytest.approx(
            -0.5 * (distance / float(reach[head])) ** 2, rel=1e-4
        )


def test_a_head_without_precision_sees_everywhere_alike():
    assert not nearness(torch.rand(1, 4, 2), grid_centres(2, 2)[None], torch.zeros(3)).any()


def test_heads_start_with_reaches_from_a_sixteenth_to_a_quarter():
    reaches = (-0.5 * initial_log_precision(3)).exp()
    torch.testing.assert_close(reaches, torch.tensor([1 / 16, 1 / 8, 1 / 4]))


@pytest.mark.parametrize(
    ("top", "left", "expected"),
    [
        (25, 5, (7, 60, 30, 83)), (25, 0, (0, 60, 23, 83)), (0, 5, (7, 0, 30, 23)), (25, 19, (37, 60, 60, 83)),
        (33, 5, (7, 77, 30, 100)),
    ],
    ids=["inside", "left", "top", "right", "bottom"],
)  # fmt: skip
def test_the_box_of_a_portrait_lies_about_the_mask_and_within_the_picture(top, left, expected):
    """Of 7 x 5 cells of 2.5 pixels, which spread as a square of 6 cells does; their middle is at (71.25, 18.75) inside."""
    mask = torch.zeros(40, 24)
    mask[top : top + 7, left : left + 5] = 1
    assert round(EXTENT * 6 * 2.5 / PORTRAIT[2]) == 23
    assert portrait_box(mask, (60, 100)) == expected


def test_the_box_of_a_portrait_is_a_quarter_of_the_picture_at_least_and_its_shorter_side_at_most():
    mask = torch.zeros(40, 24)
    assert portrait_box(mask, (60, 100)) == (0, 20, 60, 80)  # of nothing
    mask[28, 7] = 1
    assert portrait_box(mask, (60, 100)) == (11, 64, 26, 79)
