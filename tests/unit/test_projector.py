from __future__ import annotations

import torch

from realcustom.projector import FeatureProjector, latent_features


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
