from __future__ import annotations

import pytest
import torch

from parity.official import about, deviation, tensors, weights
from realcustom.convert import projector_key
from realcustom.projector import CrossScaleProjector

TOLERANCE = 1e-4


def projector(name: str, *, adaptive_scale: bool = False, **parts: bool) -> CrossScaleProjector:
    config, state = about(name)["config"], {projector_key(key): one for key, one in weights(name).items()}
    if adaptive_scale:
        state |= {projector_key(key): one for key, one in weights(name, "weights_adaptive.").items()}
    built = CrossScaleProjector(
        config["vision_dim"], config["out_dim"], head_dim=config["dim_head"], adaptive_scale=adaptive_scale, **parts
    )
    built.load_state_dict({key: state.pop(key) for key in built.state_dict()})
    # the released variant with shallow features loads weights for detail that its output does not depend on
    assert not [key for key in state if not (parts.get("shallow") and key.startswith("local_"))]
    return built.eval()


@torch.no_grad()
@pytest.mark.parametrize(("adaptive_scale", "expected"), [(False, "output"), (True, "output_adaptive_scale")])
def test_high_resolution(adaptive_scale, expected):
    golden = tensors("projector_highres")
    built = projector("projector_highres", adaptive_scale=adaptive_scale)
    assert deviation(built(golden["input.deep"], golden["input.deep_local"]), golden[expected]) < TOLERANCE


@torch.no_grad()
def test_the_attention_between_scales():
    golden = tensors("projector_highres")
    found = projector("projector_highres").local_attention(golden["input.deep"], golden["input.deep_local"])
    assert deviation(found, golden["mid.min_attention"]) < TOLERANCE


def shallow_features(golden):
    return [golden[f"input.shallow{number}"] for number in (1, 2, 3)]


@torch.no_grad()
def test_shallow():
    golden = tensors("projector_shallow")
    built = projector("projector_shallow", local=False, shallow=True)
    found = built(golden["input.deep"], None, shallow_features(golden))
    assert deviation(found, golden["output"]) < TOLERANCE


@torch.no_grad()
def test_the_papers_figure_adds_detail_to_the_first_half_and_leaves_the_shallow_half():
    golden = tensors("projector_shallow")
    built = projector("projector_shallow", local=True, shallow=True)
    found = built(golden["input.deep"], golden["input.deep_local"], shallow_features(golden))
    deep_tokens = golden["input.deep"].shape[1]
    assert deviation(found[:, deep_tokens:], golden["output"][:, deep_tokens:]) < TOLERANCE
    without = projector("projector_shallow", local=False, shallow=True)
    detail = built.local_mlp(built.local_attention(golden["input.deep"], golden["input.deep_local"]))
    torch.testing.assert_close(found[:, :deep_tokens], without.base(golden["input.deep"]) + detail)
