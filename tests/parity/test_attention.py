"""One cross-attention layer of the authors' code."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention

from parity.official import about, deviation, tensors, weights
from realcustom.attention import AttentionTap, Influence, SubjectAttnProcessor, View
from realcustom.masks import resize_mask, resize_mask_by_height

TOLERANCE = 1e-4
CONFIG, CASES = about("attention")["config"], about("attention")["cases"]


@pytest.fixture(scope="module")
def attn():
    attn = Attention(CONFIG["query_dim"], CONFIG["cross_dim"], heads=CONFIG["heads"], dim_head=CONFIG["dim_head"])
    attn.load_state_dict({key: one for key, one in weights("attention").items() if "vision" not in key})
    return attn.eval()


def subject(vision, mask=None):
    projections = (weights("attention")[f"to_{part}_vision.weight"] for part in "kv")
    return Influence([View({"layer": tuple(vision @ weight.T for weight in projections)})], mask=mask)


def subjects(case):
    """Return the subjects of a case, each with its mask."""
    golden = tensors("attention")
    vision, several = golden["input.vision"], golden["input.vision_multi"].unbind(1)
    masks = {
        "text_vision_mask": lambda: golden["input.mask"][:, 0],
        "text_vision_mask_same_res": lambda: golden["input.mask_same_res"][:, 0],
        "text_vision_mask_5d": lambda: golden["input.mask_5d"][:, 0, CONFIG["layer_id"]],
        "text_vision_mask_skew": lambda: golden["input.mask_skew"][:, 0],
    }
    if case == "text":
        return []
    if case == "multi_2refs_2masks":
        return [subject(one, mask) for one, mask in zip(several, golden["input.mask_multi"].unbind(1), strict=True)]
    if case == "multi_2refs":
        return [subject(one) for one in several]
    return [subject(vision, masks[case]() if case in masks else None)]


@torch.no_grad()
def run(attn, hidden, latent_size, **tap):
    """Return the layer's output and what it recorded."""
    tap = AttentionTap(latent_size=latent_size, **tap)
    attn.set_processor(SubjectAttnProcessor("layer", tap))
    return attn(tensors("attention")[hidden], tensors("attention")["input.text"]), tap.maps


@pytest.mark.parametrize("case", CASES)
def test_outputs(attn, case):
    found, _ = run(attn, "input.hidden_states", tuple(CONFIG["hw"]), subjects=subjects(case))
    assert deviation(found, tensors("attention")[f"output.{case}"]) < TOLERANCE


def test_every_output_of_the_file_is_compared():
    outputs = {key.removeprefix("output.") for key in tensors("attention") if key.startswith("output.")}
    assert outputs == {*CASES, "crossmap", "text_vision_mask_skew"}


def test_a_mask_whose_axes_shrink_by_different_ratios(attn):
    """The authors sample both by that of the rows; `compat="official"` does, the default takes each axis by its own."""
    golden, size = tensors("attention"), tuple(CONFIG["skew_hw"])
    given = {"subjects": subjects("text_vision_mask_skew")}
    theirs, _ = run(attn, "input.hidden_states_skew", size, resize=resize_mask_by_height, **given)
    assert deviation(theirs, golden["output.text_vision_mask_skew"]) < TOLERANCE
    ours, _ = run(attn, "input.hidden_states_skew", size, resize=resize_mask, **given)
    assert deviation(ours, golden["output.text_vision_mask_skew"]) > 10 * TOLERANCE


def test_the_mask_inside_the_layer():
    golden = tensors("attention")
    for resize in (resize_mask, resize_mask_by_height):
        assert (
            deviation(resize(golden["input.mask"][:, 0], tuple(CONFIG["hw"])), golden["mid.mask_resized"][:, 0])
            < TOLERANCE
        )


@pytest.mark.parametrize("tokens", [(3,), (5, 6), (1, 40, -1)])
def test_maps(attn, tokens):
    golden = tensors("attention")
    word = torch.zeros(len(golden["input.text"]), golden["input.text"].shape[1])
    word[:, list(tokens)] = 1
    _, maps = run(attn, "input.hidden_states", tuple(CONFIG["hw"]), word=word)
    expected = golden["output.crossmap"].mean(dim=1)[:, list(tokens)].sum(dim=1)
    assert deviation(maps["layer"], expected) < TOLERANCE
