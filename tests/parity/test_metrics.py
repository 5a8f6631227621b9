"""ImageReward and LPIPS, against numbers of their authors' own code on random weights of small sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realcustom.errors import CheckpointMismatch
from realcustom.evaluation.image_reward import ImageRewardModel, image_reward_of
from realcustom.evaluation.lpips import Lpips, lpips_of
from realcustom.loading import load_strictly

SHAPES = {
    "vision": {
        "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    },
    "text": {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 40,
    },
    "head_widths": [12, 8, 6, 4],
}  # fmt: skip


@pytest.fixture(scope="module")
def tensors():
    """By the first part of their names: what is under "image_reward" and "lpips" has its authors' names."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(Path(__file__).parents[1] / "golden" / "metrics.safetensors").items():
        kind, name = key.split("/", 1)
        found.setdefault(kind, {})[name] = tensor
    return found


def test_rewards_are_the_authors(tensors):
    model, told = image_reward_of(tensors["image_reward"], **SHAPES), tensors["image_reward_io"]
    with torch.no_grad():
        found = model(told["pixels"], told["input_ids"], told["attention_mask"])
    torch.testing.assert_close(found, told["reward"], atol=1e-5, rtol=1e-4)
    assert abs(float(told["reward"][0] - told["reward"][1])) > 0.01


def test_distances_are_the_authors(tensors):
    model, told = lpips_of(tensors["lpips"]), tensors["lpips_io"]
    with torch.no_grad():
        found = model(told["one"], told["other"])
        assert model(told["one"], told["one"]).tolist() == [0, 0]
    torch.testing.assert_close(found, told["distance"], atol=1e-5, rtol=1e-5)


def test_they_are_the_same_from_a_folder(tensors, tmp_path):
    image_reward_of(tensors["image_reward"], **SHAPES).save_pretrained(tmp_path / "reward")
    lpips_of(tensors["lpips"]).save_pretrained(tmp_path / "lpips")
    told, pairs = tensors["image_reward_io"], tensors["lpips_io"]
    with torch.no_grad():
        reward = load_strictly(ImageRewardModel, tmp_path / "reward")(
            told["pixels"], told["input_ids"], told["attention_mask"]
        )
        distance = load_strictly(Lpips, tmp_path / "lpips")(pairs["one"], pairs["other"])
    torch.testing.assert_close(reward, told["reward"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(distance, pairs["distance"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "build"), [("image_reward", lambda state: image_reward_of(state, **SHAPES)), ("lpips", lpips_of)]
)
def test_files_that_are_something_else_are_refused(tensors, kind, build):
    state = dict(tensors[kind])
    with pytest.raises(CheckpointMismatch, match="1 unexpected"):
        build({**state, "mlp.layers.1.weight": torch.zeros(1)})
    state.pop(next(key for key in state if key.endswith("weight") and "proj" not in key))
    with pytest.raises(CheckpointMismatch, match="1 missing"):
        build(state)


def test_without_more_being_said_they_are_of_the_published_size():
    with torch.device("meta"):
        reward = ImageRewardModel()
    vision, text = reward.vision_model.config, reward.text_encoder.config
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.hidden_size, vision.image_size) == (
        24,
        16,
        1024,
        224,
    )
    assert (text.num_hidden_layers, text.num_attention_heads, text.hidden_size, text.vocab_size) == (12, 12, 768, 30524)
    assert [layer.out_features for layer in reward.head] == [1024, 128, 64, 16, 1]
