from __future__ import annotations

import numpy as np
import pytest
import torch

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import Influence, attached
from realcustom.errors import InputError
from realcustom.prompts import TextStates
from realcustom.schedule import alpha_at


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet()


@pytest.fixture(scope="module")
def adapter(tiny, unet):
    return tiny.adapter(unet)


@pytest.fixture
def inputs():
    """Features, text, latents and a_t."""
    text = TextStates(torch.randn(2, 5, 32), torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    return torch.randn(2, 16, 16), text, torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])


def test_the_adapter_fits_every_cross_attention_layer_of_the_unet(adapter, unet):
    widths = {"down_blocks.0": 32, "down_blocks.1": 64, "mid_block": 64, "up_blocks.0": 64, "up_blocks.1": 32}
    expected = {
        name.removesuffix(".processor"): width
        for name in unet.attn_processors
        for block, width in widths.items()
        if ".attn2." in name and name.startswith(block)
    }
    assert adapter.config["layers"] == expected
    tokens = torch.randn(1, 16, 16)
    shapes = {name: (keys.shape, values.shape) for name, (keys, values) in adapter.keys_values(tokens).items()}
    assert shapes == {name: ((1, 16, width), (1, 16, width)) for name, width in expected.items()}


@torch.no_grad()
@pytest.mark.parametrize("trained", [False, True])
def test_only_training_lets_the_subject_change_the_base(tiny, unet, inputs, trained):
    features, text, latents, alpha = inputs
    plain = unet(latents, 500, text.states, encoder_attention_mask=text.keep).sample
    with attached(unet) as tap:
        tap.latent_size = (8, 8)
        tap.subjects = [
            Influence([tiny.adapter(unet, trained=trained)(features, text, latents, alpha, token_ratio=0.8)])
        ]
        with_subject = unet(latents, 500, text.states, encoder_attention_mask=text.keep).sample
    assert torch.equal(with_subject, plain) != trained


@torch.no_grad()
def test_projecting_commutes_with_weighting_and_selecting(adapter, inputs):
    features, text, latents, alpha = inputs
    subject = adapter(features, text, latents, alpha, token_ratio=0.5)
    scores = adapter.scoring(text.states, latents, features, alpha, text_keep=text.keep)
    strongest = scores.topk(8, dim=1).indices.sort(dim=1).values
    weighted = features * (1 + scores[..., None])
    selected = torch.stack([row[kept] for row, kept in zip(weighted, strongest, strict=True)])
    for name, (keys, values) in adapter.keys_values(selected).items():
        torch.testing.assert_close(subject.layer(name), (keys, values))


@torch.no_grad()
def test_the_gain_multiplies_the_score(tiny, unet, inputs):
    features, text, latents, alpha = inputs
    weak, strong = (
        tiny.adapter(unet, score_gain=gain)(features, text, latents, alpha, token_ratio=1.0).weights
        for gain in (1.0, 16.0)
    )
    torch.testing.assert_close(strong - 1, 16 * (weak - 1))
    torch.testing.assert_close(strong.mean(dim=1), torch.full((2,), 2.0))


@torch.no_grad()
def test_queries_of_its_own_start_as_the_texts_and_act_alone(tiny, unet, inputs):
    features, text, latents, alpha = inputs

    def prediction(adapter):
        with attached(unet) as tap:
            tap.latent_size = (8, 8)
            tap.subjects = [Influence([adapter(features, text, latents, alpha, token_ratio=0.8)])]
            return unet(latents, 500, text.states, encoder_attention_mask=text.keep).sample

    shared, own = (tiny.adapter(unet, own_queries=owns) for owns in (False, True))
    own.load_state_dict(shared.state_dict(), strict=False)
    torch.testing.assert_close(prediction(own), prediction(shared))
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    own.to_q[name.replace(".", "-")].weight.mul_(-3)
    assert not torch.allclose(prediction(own), prediction(shared), atol=1e-3)
    plain = unet(latents, 500, text.states, encoder_attention_mask=text.keep).sample
    for weight in own.to_v.parameters():
        weight.zero_()
    assert torch.equal(prediction(own), plain)


@torch.no_grad()
def test_placed_tokens_act_near_where_they_lie(tiny, unet, inputs):
    features, text, latents, alpha = inputs
    adapter = tiny.adapter(unet, placed=True)
    for weight in adapter.to_k.parameters():
        weight.zero_()  # so that only nearness decides
    positions = torch.full((2, 16, 2), 5.0)  # far outside, but for the third token
    positions[:, 2] = torch.tensor([0.25, 0.75])
    subject = adapter(features, text, latents, alpha, token_ratio=1.0, positions=positions)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    weights = subject.bias(name, (4, 4)).softmax(dim=-1)
    torch.testing.assert_close(weights[..., 2], torch.ones_like(weights[..., 2]))
    nowhere = adapter(features, text, latents, alpha, token_ratio=1.0)
    assert nowhere.bias(name, (4, 4)) is None


@torch.no_grad()
def test_padding_changes_nothing_of_what_is_present(tiny, unet, inputs):
    features, text, latents, alpha = inputs
    adapter = tiny.adapter(unet)
    tokens = adapter.tokens(features)
    keys_values = adapter.keys_values(tokens)
    present = torch.ones(2, 16, dtype=torch.bool)
    present[0, 12:] = False
    whole, padded = (
        adapter.act(tokens, keys_values, text, latents, alpha, token_ratio=0.5, present=one) for one in (None, present)
    )
    scores = whole.weights - 1
    expected = scores[0, :12] / scores[0, :12].sum() * 12 / 16
    torch.testing.assert_close(padded.weights[0, :12] - 1, expected)
    torch.testing.assert_close(padded.weights[1], whole.weights[1])
    assert padded.present.sum(dim=1).tolist() == [6, 8]
    assert padded.present[1].nonzero()[:, 0].tolist() == whole.kept[1].tolist()
    assert padded.present[0].nonzero()[:, 0].tolist() == scores[0, :12].topk(6).indices.sort().values.tolist()


@torch.no_grad()
def test_the_nearness_of_kept_tokens_is_their_own(tiny, unet, inputs):
    features, text, latents, alpha = inputs
    adapter, positions = tiny.adapter(unet, placed=True), torch.rand(2, 16, 2)
    few, all_of_them = (
        adapter(features, text, latents, alpha, token_ratio=ratio, positions=positions) for ratio in (0.25, 1.0)
    )
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    whole, part = (subject.bias(name, (2, 3)) for subject in (all_of_them, few))
    for row, kept in enumerate(few.kept):
        torch.testing.assert_close(part[row], whole[row][..., kept])


@torch.no_grad()
def test_padding_of_the_text_does_not_reach_the_scores(adapter, inputs):
    features, text, latents, alpha = inputs
    padding = torch.where(text.keep[..., None], 0.0, 100.0)
    other = TextStates(text.states + padding, text.keep)
    weights = [adapter(features, states, latents, alpha, token_ratio=1.0).weights for states in (text, other)]
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"token_dim": 32, "projector_depth": 1, "projector_grid": 4, "score_gain": 16.0},
        {"own_queries": True, "placed": True},
    ],
)
def test_saving_and_loading_is_exact(tiny, unet, tmp_path, inputs, config):
    adapter = tiny.adapter(unet, **config)
    adapter.save_pretrained(tmp_path)
    loaded = RealCustomAdapter.from_pretrained(tmp_path).eval()
    assert all(loaded.config[name] == value for name, value in adapter.config.items() if not name.startswith("_"))
    features, text, latents, alpha = inputs
    one, other = (model(features, text, latents, alpha, token_ratio=0.8) for model in (adapter, loaded))
    assert torch.equal(one.weights, other.weights)
    for name, pair in one.keys_values.items():
        assert all(torch.equal(*tensors) for tensors in zip(pair, other.keys_values[name], strict=True))


@pytest.mark.parametrize(
    ("timestep", "cumulative"),
    [(0, 0.96), (1, 0.64), (2, 0.16), (0.5, 0.8), (1.25, 0.52), (2.0, 0.16), (7, 0.16), (-1, 0.96)],
)
def test_alpha_is_the_root_of_the_schedule_and_linear_in_it_between_steps(timestep, cumulative):
    found = alpha_at(torch.tensor([0.96, 0.64, 0.16]), torch.tensor(timestep))
    assert float(found) == pytest.approx(cumulative**0.5)


def test_a_finer_adapter_has_four_tokens_for_one_and_runs(tiny):
    seen = tiny.pipeline()
    grid = round(seen.subject_encoder.remember(tiny.subject(), seen.adapter, "dog").features.deep.shape[1] ** 0.5)
    adapter = tiny.adapter(seen.unet, projector_depth=1, token_dim=32, projector_grid=grid)
    pipe = tiny.pipeline(unet=seen.unet, adapter=adapter)
    finer = adapter.finer()
    assert finer.config["feature_dim"] * 4 == pipe.adapter.config["feature_dim"]
    made = tiny.pipeline(unet=pipe.unet, adapter=finer)(
        "a dog on the beach", tiny.subject(), "dog", num_inference_steps=2, output_type="np"
    )
    coarse, fine = (
        one.subject_encoder.remember(tiny.subject(), one.adapter, "dog").features.deep.shape[1]
        for one in (pipe, tiny.pipeline(unet=pipe.unet, adapter=finer))
    )
    assert fine == 4 * coarse
    assert np.isfinite(made.images).all()


def test_a_finer_adapters_heads_reach_half_as_far(tiny, unet):
    adapter = tiny.adapter(unet, projector_depth=1, token_dim=32, placed=True)
    finer = adapter.finer()
    assert finer.log_precisions
    for name, log_precision in finer.log_precisions.items():
        reach, before = (torch.exp(-0.5 * one) for one in (log_precision, adapter.log_precisions[name]))
        torch.testing.assert_close(reach, before / 2)


def test_features_that_are_no_patches_cannot_be_made_finer(tiny, unet):
    with pytest.raises(InputError, match="patches of latents"):
        tiny.adapter(unet, projector_depth=0).finer()


def test_an_image_prompt_is_the_same_adapter_without_scores_and_places(tiny, unet, inputs):
    adapter = tiny.adapter(unet, placed=True, own_queries=True)
    plain = adapter.as_image_prompt()
    features, text, latents, alpha = inputs
    view = plain(features, text, latents, alpha, token_ratio=0.5, positions=torch.rand(2, 16, 2))
    assert (view.weights, view.kept, view.precisions) == (None, None, None)
    before = adapter.keys_values(adapter.tokens(features))
    for name, (key, value) in view.keys_values.items():
        assert torch.equal(key, before[name][0])
        assert torch.equal(value, before[name][1])
        assert torch.equal(view.to_q[name].weight, adapter.to_q[name.replace(".", "-")].weight)
