from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from realcustom.attention import AttentionTap, Influence, SubjectAttnProcessor, View, attached, cross_attention_layers
from realcustom.errors import InputError
from realcustom.prompts import TextStates
from reference import attention as reference
from reference import scoring


def use(attn: Attention, **tap: object) -> AttentionTap:
    """Give the layer our processor and return its tap."""
    tap = AttentionTap(**tap)
    attn.set_processor(SubjectAttnProcessor("layer", tap))
    return tap


@pytest.mark.parametrize("heads", [1, 2])
def test_a_layer_is_the_reference(heads):
    attn = Attention(8, 6, heads=heads, dim_head=8 // heads)
    hidden, text, tokens = torch.randn(2, 6, 8), torch.randn(2, 4, 6), torch.randn(2, 5, 3)
    w_ki, w_vi, scores, mask = torch.randn(8, 3), torch.randn(8, 3), torch.randn(2, 5).softmax(1), torch.rand(2, 2, 3)
    kept = torch.stack([row.topk(3).indices.sort().values for row in scores])
    view = View({"layer": (tokens @ w_ki.T, tokens @ w_vi.T)}, weights=1 + scores, kept=kept)
    use(attn, latent_size=(2, 3), subjects=[Influence([view], mask=mask)])
    with torch.no_grad():
        found = attn(hidden, text)
    names = {
        "w_q": "to_q.weight",
        "w_k": "to_k.weight",
        "w_v": "to_v.weight",
        "w_out": "to_out.0.weight",
        "b_out": "to_out.0.bias",
    }
    weights = {name: attn.get_parameter(place).detach().double().numpy() for name, place in names.items()}
    weights |= {"w_ki": w_ki.double().numpy(), "w_vi": w_vi.double().numpy()}
    for b in range(2):
        image = np.stack(scoring.select(list(tokens[b].double().numpy()), scores[b].tolist(), 0.7))
        inputs = (hidden[b].double().numpy(), text[b].double().numpy(), image, mask[b].flatten().double().numpy())
        np.testing.assert_allclose(found[b], reference.layer(*inputs, heads, **weights), atol=1e-5)


def test_the_scale_multiplies_only_the_subject():
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text = torch.randn(1, 4, 8), torch.randn(1, 3, 6)
    keys_values = {"layer": (torch.randn(1, 5, 8), torch.randn(1, 5, 8))}
    tap = use(attn, latent_size=(2, 2))
    outputs = {}
    for scale in (0.0, 1.0, 3.0):
        tap.subjects = [Influence([View(keys_values)], scale=torch.tensor([scale]))]
        outputs[scale] = attn(hidden, text)
    torch.testing.assert_close(outputs[3.0] - outputs[0.0], 3 * (outputs[1.0] - outputs[0.0]))


def test_padding_of_the_reference_is_as_if_it_were_not_there():
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text = torch.randn(2, 4, 8), torch.randn(2, 3, 6)
    keys, values = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    tap = use(attn, latent_size=(2, 2))
    present = torch.tensor([[True, False, True, True, False]] * 2)
    tap.subjects = [Influence([View({"layer": (keys, values)}, present=present)])]
    found = attn(hidden, text)
    tap.subjects = [Influence([View({"layer": (keys[:, [0, 2, 3]], values[:, [0, 2, 3]])})])]
    torch.testing.assert_close(found, attn(hidden, text))


def test_a_mask_of_zeros_leaves_the_text_alone_bit_for_bit():
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text = torch.randn(2, 4, 8), torch.randn(2, 3, 6)
    tap = use(attn, latent_size=(2, 2))
    text_only = attn(hidden, text)
    keys_values = {"layer": (torch.randn(2, 5, 8), torch.randn(2, 5, 8))}
    tap.subjects = [Influence([View(keys_values)], mask=torch.zeros(2, 2, 2))]
    assert torch.equal(attn(hidden, text), text_only)
    tap.subjects = [Influence([View(keys_values)], mask=torch.eye(2).expand(2, 2, 2))]
    changed = (attn(hidden, text) != text_only).any(dim=-1)
    assert changed.tolist() == [[True, False, False, True]] * 2


@pytest.mark.parametrize("own_queries", [False, True])
def test_cells_outside_the_mask_are_not_asked_and_the_others_get_what_they_would(own_queries):
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text = torch.randn(2, 12, 8), torch.randn(2, 3, 6)
    tap = use(attn, latent_size=(3, 4))
    to_q = torch.nn.Linear(8, 8)
    asked: list[int] = []
    to_q.register_forward_hook(lambda module, given, result: asked.append(result.shape[1]))
    view = View(
        {"layer": (torch.randn(2, 5, 8), torch.randn(2, 5, 8))},
        positions=torch.rand(2, 5, 2),
        precisions={"layer": torch.tensor([3.0, 40.0])},
        to_q={"layer": to_q} if own_queries else None,
    )
    mask = torch.zeros(2, 3, 4)
    mask[0, 1, :3], mask[1, 2, 3] = torch.tensor([0.4, 1.0, 0.7]), 0.5  # three cells of one sample, one of the other
    tap.subjects = [Influence([view], mask=mask, scale=torch.tensor([1.0, 2.0]))]
    found = attn(hidden, text)
    tap.subjects = [Influence([view], mask=mask + 1e-9, scale=torch.tensor([1.0, 2.0]))]
    torch.testing.assert_close(found, attn(hidden, text))
    assert asked == ([3, 12] if own_queries else [])


@torch.no_grad()
def test_the_tokens_of_several_pictures_compete_in_one_softmax():
    """Each with its share, its padding, its choice of tokens and their places."""
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text = torch.randn(2, 6, 8), torch.randn(2, 3, 6)
    keys, values, places = torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8), torch.rand(3, 2, 5, 2)
    present = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])
    kept, shares, precisions = torch.tensor([[0, 2, 4], [1, 2, 3]]), (0.5, 0.25, 1.0), torch.tensor([3.0, 40.0])
    pairs, placed = ({"layer": pair} for pair in zip(keys, values, strict=True)), {"precisions": {"layer": precisions}}
    views = [
        View(next(pairs), present=present, positions=places[0], share=shares[0], **placed),
        View(next(pairs), kept=kept, positions=places[1], share=shares[1], **placed),
        View(next(pairs)),
    ]
    mask = torch.tensor([[[0.4, 0.0, 1.0], [0.0, 0.7, 0.0]], [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]])
    tap = use(attn, latent_size=(2, 3))
    textual = attn(hidden, text)
    tap.subjects = [Influence(views, mask=mask)]
    found = attn(hidden, text) - textual

    query, visual = attn.to_q(hidden).numpy(), np.zeros((2, 6, 8))
    for b, cell, head in np.ndindex(2, 6, 2):
        own, centre = slice(4 * head, 4 * head + 4), np.array([cell // 3 + 0.5, cell % 3 + 0.5]) / 2
        logits, told = [], []
        for view, token in np.ndindex(3, 5):
            if (view == 0 and not present[b, token]) or (view == 1 and token not in kept[b]):
                continue
            squared = 0.0 if view == 2 else np.square(places[view, b, token].numpy() - centre).sum()
            likeness = query[b, cell, own] @ keys[view, b, token, own].numpy() / 2
            logits.append(likeness + np.log(shares[view]) - float(precisions[head]) / 2 * squared)
            told.append(values[view, b, token, own].numpy())
        visual[b, cell, own] = float(mask[b].flatten()[cell]) * reference.softmax(np.array(logits)) @ np.stack(told)
    np.testing.assert_allclose(found, visual @ attn.to_out[0].weight.numpy().T, atol=1e-5)


VARIANTS = {
    "plain": {"cross_attention_dim": 6},
    "no text": {},
    "no text, group norm": {"norm_num_groups": 2},
    "group norm": {"cross_attention_dim": 6, "norm_num_groups": 2},
    "residual": {"cross_attention_dim": 6, "residual_connection": True},
    "rescaled": {"cross_attention_dim": 6, "rescale_output_factor": 1.7},
    "text layer norm": {"cross_attention_dim": 6, "cross_attention_norm": "layer_norm"},
    "text group norm": {
        "cross_attention_dim": 6, "cross_attention_norm": "group_norm", "cross_attention_norm_num_groups": 3,
    },
    "query and key norm": {"cross_attention_dim": 6, "qk_norm": "layer_norm"},
    "all": {
        "cross_attention_dim": 6, "norm_num_groups": 2, "residual_connection": True, "rescale_output_factor": 1.7,
        "cross_attention_norm": "layer_norm", "bias": True, "out_bias": False,
    },
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [(2, 12, 8), (2, 8, 3, 4)], ids=["tokens", "picture"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_subjects_a_layer_is_the_stock_one_bit_for_bit(variant, shape, padded):
    settings = VARIANTS[variant]
    attn = Attention(8, heads=2, dim_head=4, **settings).eval()
    for parameter in attn.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(shape)
    text = torch.randn(2, 5, 6) if "cross_attention_dim" in settings else None
    mask = torch.zeros(2, 1, 12 if text is None else 5)
    mask[0, :, 3:] = -10000.0
    inputs = {"encoder_hidden_states": text, "attention_mask": mask if padded else None}
    attn.set_processor(AttnProcessor2_0())
    expected = attn(hidden, **inputs)
    use(attn)
    assert torch.equal(attn(hidden, **inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_the_recorded_map_is_the_share_of_attention_that_the_word_gets(padded):
    attn = Attention(8, 6, heads=2, dim_head=4)
    hidden, text, mask = torch.randn(3, 6, 8), torch.randn(3, 5, 6), torch.zeros(3, 1, 5)
    mask[:, :, 4] = -10000.0
    word = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
    tap = use(attn, latent_size=(2, 3), word=word.float())
    attn(hidden, text, attention_mask=mask if padded else None)
    query, key = (attn.head_to_batch_dim(projected) for projected in (attn.to_q(hidden), attn.to_k(text)))
    bias = mask.repeat_interleave(2, 0).expand(-1, 6, -1) if padded else None
    shares = attn.get_attention_scores(query, key, bias).reshape(3, 2, 6, 5).mean(dim=1)[1:]
    expected = torch.stack([shares[0, :, 1:3].sum(-1), shares[1, :, 4]]).reshape(2, 2, 3)
    torch.testing.assert_close(tap.maps["layer"], expected)
    if padded:
        assert not tap.maps["layer"][1].any()


@torch.no_grad()
@pytest.mark.parametrize("variant", ["plain", "text layer norm"])
def test_the_text_cache_changes_nothing_and_projects_each_text_once(variant):
    attn = Attention(8, heads=2, dim_head=4, **VARIANTS[variant])
    hidden, texts = torch.randn(1, 4, 8), torch.randn(2, 1, 3, 6).unbind()
    tap = use(attn)
    expected = [attn(hidden, text) for text in texts]
    calls = []
    attn.to_k.register_forward_hook(lambda *_: calls.append("to_k"))
    tap.text_cache = {}
    for _ in range(3):
        assert all(torch.equal(attn(hidden, text), known) for text, known in zip(texts, expected, strict=True))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("latent_size", "cells", "grid"),
    [
        ((8, 8), 64, (8, 8)), ((8, 8), 4, (2, 2)), ((12, 8), 24, (6, 4)), ((5, 7), 12, (3, 4)), ((5, 7), 4, (2, 2)),
        ((1, 9), 3, (1, 3)),
    ],
)  # fmt: skip
def test_the_grid_of_a_layer_follows_from_its_cells(latent_size, cells, grid):
    assert AttentionTap(latent_size).grid(cells) == grid


@pytest.mark.parametrize("cells", [65, 17, 3])
def test_a_layer_that_no_halving_of_the_latent_has_is_an_error(cells):
    with pytest.raises(InputError, match=rf"{cells} cells does not belong to a latent of \(8, 8\)"):
        AttentionTap((8, 8)).grid(cells)


def test_refining_needs_self_attention_on_the_masks_grid():
    pair = torch.zeros(1, 2, 16, 4), torch.zeros(1, 2, 16, 4)
    tap = AttentionTap((8, 8), self_attention={"layer": pair})
    assert tap.own_attention((4, 4)) == [pair]
    with pytest.raises(InputError, match=r"no self-attention layer lies on the mask's grid of \(8, 8\)"):
        tap.own_attention((8, 8))


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet()


def call(unet, size=(8, 8)):
    generator = torch.Generator().manual_seed(3)
    latents, text = torch.randn(2, 4, *size, generator=generator), torch.randn(2, 5, 32, generator=generator)
    return unet(latents, torch.tensor(500), text).sample


def test_only_cross_attention_is_ours_inside_the_block(unet):
    before = dict(unet.attn_processors)
    with attached(unet):
        ours = {name for name, processor in unet.attn_processors.items() if isinstance(processor, SubjectAttnProcessor)}
        others = {name: processor for name, processor in unet.attn_processors.items() if name not in ours}
    assert ours == {name for name in before if ".attn2." in name}
    assert all(processor is before[name] for name, processor in others.items())


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_restores_the_very_processors_and_touches_no_weight(unet, fails):
    processors, weights = (
        dict(unet.attn_processors),
        {name: tensor.clone() for name, tensor in unet.state_dict().items()},
    )
    with torch.no_grad():
        picture = call(unet)
    try:
        with attached(unet) as tap:
            tap.latent_size = (8, 8)
            call(unet)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert {name: id(processor) for name, processor in unet.attn_processors.items()} == {
        name: id(processor) for name, processor in processors.items()
    }
    assert unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in unet.state_dict().items())
    with torch.no_grad():
        assert torch.equal(call(unet), picture)


@torch.no_grad()
def test_an_attached_unet_without_subjects_is_the_stock_one_bit_for_bit(unet):
    expected = call(unet, (6, 7))
    with attached(unet) as tap:
        tap.latent_size, tap.text_cache, tap.word = (6, 7), {}, torch.ones(2, 5)
        assert torch.equal(call(unet, (6, 7)), expected)
    assert tap.maps.keys() == cross_attention_layers(unet).keys()
    for layer in tap.maps.values():
        torch.testing.assert_close(layer, torch.ones_like(layer))  # a word of all tokens gets all attention


def test_the_loss_reaches_every_weight_of_the_adapter_that_can_matter(tiny):
    unet = tiny.unet().requires_grad_(False)
    adapter = tiny.adapter(unet, feature_dim=16, token_dim=32, projector_depth=1, projector_grid=4).train()
    with attached(unet) as tap:
        tap.latent_size = (8, 8)
        text = TextStates(torch.randn(2, 5, 32), torch.ones(2, 5, dtype=torch.bool))
        alpha = torch.tensor([0.2, 0.7])
        tap.subjects = [
            Influence([adapter(torch.randn(2, 16, 16), text, torch.randn(2, 4, 8, 8), alpha, token_ratio=0.8)])
        ]
        call(unet).square().mean().backward()
    # The softmax of RC 8 does not see what is added to all scores, so these have no gradient but rounding.
    blind = {"scoring.text_scores.2.bias", "scoring.visual_scores.2.bias"}
    reached = {
        name for name, weight in adapter.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert {name for name, _ in adapter.named_parameters()} - reached <= blind
    assert all(parameter.grad is None for parameter in unet.parameters())
