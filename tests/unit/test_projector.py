from __future__ import annotations

import pytest
import torch

from realcustom.errors import InputError
from realcustom.projector import CrossScaleProjector, FeatureProjector, latent_features, patch_side


def test_a_feature_holds_one_square_of_the_latent():
    latents = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    features = latent_features(latents)
    assert features.shape == (2, 6, 12)
    square = latents[1, :, 2:4, 4:6].permute(1, 2, 0)
    assert torch.equal(features[1, 5], square.flatten())


def test_the_projector_gives_a_token_for_each_feature_and_tells_places_apart():
    projector = FeatureProjector(feature_dim=12, token_dim=32, depth=1, grid=3).eval()
    features = torch.randn(2, 9, 12)
    tokens = projector(features)
    assert tokens.shape == (2, 9, 32)
    assert not torch.allclose(projector(features.flip(1)).flip(1), tokens, atol=1e-3)


def test_a_finer_projector_gives_the_same_tokens_where_the_quarters_of_a_patch_are_alike():
    torch.manual_seed(0)
    coarse = FeatureProjector(feature_dim=12, token_dim=32, depth=1, grid=4).eval()
    finer = coarse.finer().eval()
    latents = torch.randn(1, 3, 4, 4).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    with torch.no_grad():
        tokens = coarse(latent_features(latents, 2)).view(4, 4, 32)
        fine = finer(latent_features(latents, 1)).view(4, 2, 4, 2, 32)
    for down in (0, 1):
        for across in (0, 1):
            torch.testing.assert_close(fine[:, down, :, across], tokens, atol=1e-5, rtol=0)


def test_the_side_of_a_patch_follows_from_the_width_of_its_features():
    assert [patch_side(width, 8) for width in (8, 32, 72)] == [1, 2, 3]
    assert patch_side(48, 4) == 2  # features of something else, which are refused by their width


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(InputError, match="the width of the features, 40, must be a multiple of that of a head, 16"):
        CrossScaleProjector(40, 32, head_dim=16)
