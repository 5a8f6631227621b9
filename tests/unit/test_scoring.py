from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from realcustom.scoring import ScoringModule, fuse_scores, strongest_tokens, weighted_pool
from reference import scoring as reference


def as_net(net: nn.Sequential) -> reference.Net:
    first, _, second = net
    weights = (first.weight, first.bias, second.weight[0], second.bias[0])
    return reference.two_layers(*(tensor.detach().double().numpy() for tensor in weights))


def expected_scores(scorer, text, latents, image, alpha, keep, mask):
    """Scores of every sample by the reference; masked cells are left out of RC 6, as padding is of RC 5."""
    rows = []
    for b in range(len(text)):
        words = [row for row, kept in zip(text[b].double().numpy(), keep[b], strict=True) if kept]
        cells = [
            latents[b, :, y, x].double().numpy() * float(mask[b, y, x])
            for y, x in np.ndindex(*mask.shape[1:])
            if mask[b, y, x] > 0
        ]
        s = reference.scores(
            words, cells, list(image[b].double().numpy()), float(alpha[b]),
            w_at=scorer.text_attention.weight[0].detach().double().numpy(),
            w_av=scorer.visual_attention.weight[0].detach().double().numpy(),
            text_net=as_net(scorer.text_scores), visual_net=as_net(scorer.visual_scores),
        )  # fmt: skip
        rows.append(s)
    return np.array(rows)


@pytest.fixture
def scorer():
    scorer = ScoringModule(text_dim=6, latent_channels=3, image_dim=5, hidden_dim=7)
    for parameter in scorer.parameters():
        nn.init.normal_(parameter)
    return scorer


@pytest.fixture
def inputs():
    return torch.randn(2, 4, 6), torch.randn(2, 3, 3, 5), torch.randn(2, 9, 5), torch.tensor([0.3, 0.8])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_scores_are_the_reference(scorer, inputs, padded, masked):
    keep = torch.tensor([[True, True, False, False], [True, True, True, False]]) if padded else None
    mask = torch.rand(2, 3, 5) * (torch.rand(2, 3, 5) > 0.5) if masked else None
    with torch.no_grad():
        found = scorer(*inputs, text_keep=keep, mask=mask)
    all_words = torch.ones(2, 4, dtype=torch.bool) if keep is None else keep
    everywhere = torch.ones(2, 3, 5) if mask is None else mask
    np.testing.assert_allclose(found, expected_scores(scorer, *inputs, all_words, everywhere), atol=1e-5)


def test_scores_are_positive_and_sum_to_one(scorer, inputs):
    found = scorer(*inputs)
    assert (found > 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize(("alpha", "silent"), [(0.0, "latents"), (1.0, "text")])
def test_noise_trusts_only_the_text_and_a_clean_latent_only_the_picture(scorer, inputs, alpha, silent):
    text, latents, image, _ = inputs
    alpha = torch.full((2,), alpha)
    changed = {"text": text + (silent == "text"), "latents": latents + (silent == "latents")}
    heard = {"text": text + (silent != "text"), "latents": latents + (silent != "latents")}
    before = scorer(text, latents, image, alpha)
    torch.testing.assert_close(scorer(changed["text"], changed["latents"], image, alpha), before)
    assert not torch.allclose(scorer(heard["text"], heard["latents"], image, alpha), before, atol=1e-3)


def test_fusion_weights_each_sample_by_its_own_alpha():
    text, visual = torch.randn(2, 3, 5)
    fused = fuse_scores(text, visual, torch.tensor([0.0, 0.5, 1.0]))
    expected = torch.stack([text[0], (text[1] + visual[1]) / 2, visual[2]]).softmax(dim=1)
    torch.testing.assert_close(fused, expected)


def test_cells_outside_the_mask_take_no_part(scorer, inputs):
    text, latents, image, alpha = inputs
    mask = torch.zeros(2, 3, 5)
    mask[:, 1, 1:3] = 0.7
    disturbed = latents + 100 * (mask[:, None] == 0)
    torch.testing.assert_close(
        scorer(text, disturbed, image, alpha, mask=mask), scorer(text, latents, image, alpha, mask=mask)
    )


def test_pooling_weights_are_a_softmax_over_the_kept_tokens():
    features = torch.eye(4)[None]
    keep = torch.tensor([[True, False, True, True]])
    pooled = weighted_pool(features, torch.log(torch.tensor([[1.0, 50.0, 2.0, 5.0]])), keep)
    torch.testing.assert_close(pooled, torch.tensor([[1 / 8, 0, 2 / 8, 5 / 8]]))


def test_pooling_nothing_gives_zeros():
    pooled = weighted_pool(torch.randn(1, 3, 2), torch.randn(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(1, 2))


@pytest.mark.parametrize(("token_ratio", "count"), [(1.0, 7), (0.8, 5), (0.3, 2), (0.01, 1)])
def test_the_strongest_tokens_are_counted_as_in_the_paper_and_in_token_order(token_ratio, count):
    scores = torch.tensor([[0.1, 0.7, 0.3, 0.9, 0.2, 0.8, 0.4], [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    strength = [[3, 5, 1, 6, 2, 4, 0], [0, 1, 2, 3, 4, 5, 6]]
    found = strongest_tokens(scores, token_ratio=token_ratio)
    assert found.tolist() == [sorted(row[:count]) for row in strength]
