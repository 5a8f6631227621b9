from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from parity.official import about, deviation, tensors, weights
from realcustom.attention import Influence, SubjectAttnProcessor, attached, cross_attention_layers
from realcustom.convert import convert_unet
from realcustom.masks import resize_mask_by_height
from realcustom.prompts import TextStates

TOLERANCE, OF_MAPS = 2e-4, 5e-4


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The authors' state dict in two files, the branch first."""
    folder, state = tmp_path_factory.mktemp("official"), weights("unet")
    branch = {key: one for key, one in state.items() if "vision" in key}
    files = {
        "branch.safetensors": branch,
        "base.safetensors": {key: state[key] for key in state.keys() - branch.keys()},
    }
    for name, part in files.items():
        save_file(part, folder / name)
    return convert_unet([folder / name for name in files], about("unet")["config"])


@torch.no_grad()
def call(converted, sample="input.sample", text="", features=None, mask=None, time=0, word=None):
    """Run the UNet as the pipeline does; return its prediction and the maps that it records."""
    golden = tensors("unet")
    latents, states = golden[sample], golden[f"input.text{text}"]
    conditions = {"text_embeds": golden[f"input.pooled{text}"], "time_ids": golden["input.time_ids"]}
    with attached(converted.unet) as tap:
        tap.latent_size, tap.word, tap.resize = tuple(latents.shape[2:]), word, resize_mask_by_height
        if features is not None:
            tokens = converted.adapter.tokens(*(golden[f"input.{name}{features}"] for name in ("deep", "deep_local")))
            keys_values = converted.adapter.keys_values(tokens)
            alpha = torch.ones(len(latents))
            view = converted.adapter.act(tokens, keys_values, TextStates(states, None), latents, alpha, token_ratio=1.0)
            for name, layer in cross_attention_layers(converted.unet).items():
                own = mask[name] if isinstance(mask, dict) else mask
                layer.set_processor(SubjectAttnProcessor(name, replace(tap, subjects=[Influence([view], mask=own)])))
        timestep = golden["input.timesteps"][time]
        found = converted.unet(latents, timestep, states, added_cond_kwargs=conditions, return_dict=False)[0]
        return found, tap.maps


def one_mask(name="input.mask"):
    return tensors("unet")[name][:, 0]


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("a_text", {}),
        ("b_text_vision_mask", {"features": "", "mask": "input.mask"}),
        ("c_negative_zeroimage_mask", {"text": "_negative", "features": "_zero_image", "mask": "input.mask"}),
    ],
)
def test_both_timesteps(converted, case, arguments, time):
    given = dict(arguments)
    mask = one_mask(given.pop("mask")) if "mask" in given else None
    found, _ = call(converted, mask=mask, time=time, **given)
    assert deviation(found, tensors("unet")[f"output.{case}.t{time}"]) < TOLERANCE


def test_without_a_mask(converted):
    found, _ = call(converted, features="")
    assert deviation(found, tensors("unet")["output.d_text_vision_nomask.t0"]) < TOLERANCE


@pytest.mark.parametrize(("case", "name"), [("e_text_vision_mask_odd", "odd"), ("g_text_vision_mask_skew", "skew")])
def test_sizes_whose_masks_shrink_by_odd_ratios(converted, case, name):
    found, _ = call(converted, sample=f"input.sample_{name}", features="", mask=one_mask(f"input.mask_{name}"))
    assert deviation(found, tensors("unet")[f"output.{case}.t0"]) < TOLERANCE


def test_a_mask_for_each_layer(converted):
    stacked, order = tensors("unet")["input.mask_5d"][:, 0], about("unet")["cross_attention_order"]
    masks = {name: stacked[:, number] for number, name in zip(about("unet")["cross_attention_ids"], order, strict=True)}
    found, _ = call(converted, features="", mask=masks)
    assert deviation(found, tensors("unet")["output.f_text_vision_mask_5d.t0"]) < TOLERANCE


@pytest.mark.parametrize("time", [0, 1])
def test_maps_of_every_layer(converted, time):
    golden, order = tensors("unet"), about("unet")["cross_attention_order"]
    assert set(order) == set(cross_attention_layers(converted.unet))
    tokens = golden["input.text"].shape[1]
    for token in (0, 5, tokens - 1):
        word = torch.zeros(len(golden["input.sample"]), tokens)
        word[:, token] = 1
        _, maps = call(converted, word=word, time=time)
        for number, layer in enumerate(order):
            if time == 0:
                expected = golden[f"crossmap.t0.{number:02d}"].mean(dim=1)[:, token]
                assert deviation(maps[layer], expected) < OF_MAPS
            else:
                expected = golden[f"crossmap_headmean_sample0.t1.{number:02d}"][token]
                assert deviation(maps[layer][0], expected) < OF_MAPS


@torch.no_grad()
def test_the_projected_tokens(converted):
    golden = tensors("unet")
    found = converted.adapter.tokens(golden["input.deep"], golden["input.deep_local"])
    assert deviation(found, golden["mid.vision_tokens"]) < 1e-4


def test_the_files_say_what_they_held(converted):
    said = list(converted.sources.values())
    added = about("unet")["n_keys"]
    assert said == [
        [f"{added['added_by_vision_branch']} keys of the RealCustom part"],
        [f"{added['plain_sdxl']} keys of the UNet"],
    ]
    assert not converted.dropped
