from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parity.official import about, weights
from realcustom.convert import adapter_of, convert_unet, dinov2_of, read_state, siglip_of
from realcustom.errors import CheckpointMismatch, InputError
from realcustom.vision import clip_features, twin_features
from reference import vit

CONFIG = about("unet")["config"]


@pytest.fixture(scope="module")
def siglip_state():
    """As open_clip's file has it: beside a text tower and a pooling head."""
    state = vit.timm_state(hidden=24, depth=3, patch=7, grid=4, dino=False, prefix="visual.trunk.")
    more = ("visual.trunk.attn_pool.latent", "text.token_embedding.weight", "logit_scale", "logit_bias")
    return {**state, **{key: torch.zeros(2) for key in more}}


@pytest.fixture(scope="module")
def dino_state():
    return vit.timm_state(hidden=24, depth=3, patch=7, grid=4, dino=True)


@pytest.fixture(scope="module")
def encoders(siglip_state, dino_state):
    return siglip_of(siglip_state, heads=2, image_size=28), dinov2_of(dino_state, heads=2, image_size=28)


def numpy_weights(state):
    return {key.removeprefix("visual.trunk."): one.double().numpy() for key, one in state.items()}


def seen(pixels, mean, deviation):
    """Return pixels `[3, h, w]` in [0, 1] as an encoder is fed with them, in 8 bits."""
    levels = np.floor(pixels.double().numpy() * 255 + 1e-3) / 255
    return (levels - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))


@torch.no_grad()
def test_the_encoders_compute_what_timm_names(encoders, siglip_state, dino_state):
    """Two layers of both, of the whole picture and of its four interleaved parts at double size."""
    pixels = torch.rand(1, 3, 56, 56)
    found = twin_features(pixels, *encoders, siglip_layers=[0, 2], dino_layers=[1, 2])
    whole = torch.nn.functional.interpolate(pixels, (28, 28), mode="bilinear", align_corners=True)[0]

    def expected(picture):
        of_siglip = vit.layers(seen(picture, [0.5] * 3, [0.5] * 3), numpy_weights(siglip_state), 2)
        imagenet = seen(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        of_dino = vit.layers(imagenet, numpy_weights(dino_state), 2)
        return [np.concatenate([of_siglip[one], of_dino[other]], axis=-1) for one, other in ((0, 1), (2, 2))]

    shallow, deep = expected(whole)
    np.testing.assert_allclose(found.deep[0], deep, atol=1e-3)
    np.testing.assert_allclose(found.shallow[0][0], shallow, atol=1e-3)
    parts = {(y, x): expected(pixels[0, :, y::2, x::2])[1] for y in (0, 1) for x in (0, 1)}
    assert found.local.shape == (1, 4 * 16, 48)
    for token in range(16):
        for number, place in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
            np.testing.assert_allclose(found.local[0, 4 * token + number], parts[place][token], atol=1e-3)


@pytest.mark.parametrize("dino", [False, True])
@pytest.mark.parametrize(("own", "side"), [(37, 27), (8, 12)])
def test_positions_that_tell_row_and_column_still_do_on_another_grid(own, side, dino):
    state = vit.timm_state(hidden=24, depth=1, patch=7, grid=own, dino=dino)
    rows, columns = np.mgrid[:own, :own].reshape(2, 1, -1)
    state["pos_embed"][..., 0], state["pos_embed"][..., 1] = torch.tensor(rows), torch.tensor(columns)
    build = dinov2_of if dino else siglip_of
    embeddings = build(state, heads=2, image_size=7 * side).embeddings
    positions = embeddings.position_embeddings[0] if dino else embeddings.position_embedding.weight
    if dino:
        assert (positions[0] == 0).all()  # of the class token
        positions = positions[1:]
    assert positions.shape == (side**2, 24)
    grid = positions.detach().view(side, side, 24)[3:-3, 3:-3].numpy()  # a kernel meets the border outside
    expected = (np.mgrid[3 : side - 3, 3 : side - 3] + 0.5) * own / side - 0.5
    np.testing.assert_allclose(grid[..., 0], expected[0], atol=0.03)
    np.testing.assert_allclose(grid[..., 1], expected[1], atol=0.03)


@pytest.mark.parametrize(("key", "fate"), [("blocks.1.attn.proj.bias", "missing"), ("blocks.1.rope", "unexpected")])
def test_other_keys_of_an_encoder_are_named(dino_state, siglip_state, key, fate):
    for build, state, prefix in ((dinov2_of, dino_state, ""), (siglip_of, siglip_state, "visual.trunk.")):
        changed = dict(state)
        if fate == "missing":
            del changed[prefix + key]
        else:
            changed[prefix + key] = torch.zeros(2)
        with pytest.raises(CheckpointMismatch, match=f"1 {fate}"):
            build(changed, heads=2, image_size=28)
    with pytest.raises(CheckpointMismatch, match="reg_token"):
        dinov2_of({key: one for key, one in dino_state.items() if key != "reg_token"}, heads=2, image_size=28)


def test_layers_that_there_are_not_are_refused(encoders):
    for layers in ({"siglip_layers": [3], "dino_layers": [1]}, {"siglip_layers": [1], "dino_layers": []}):
        with pytest.raises(InputError, match="has layers 0 to 2, but"):
            twin_features(torch.rand(1, 3, 56, 56), *encoders, **layers)
    with pytest.raises(InputError, match="as many layers of both"):
        twin_features(torch.rand(1, 3, 56, 56), *encoders, siglip_layers=[0, 1], dino_layers=[1])


class TestUNet:
    @pytest.fixture(scope="class")
    def state(self):
        return weights("unet")

    @pytest.fixture
    def files(self, state, tmp_path):
        """The authors' weights in a pickled file, the branch, and a safetensors file, the base."""
        branch = {key: one for key, one in state.items() if "vision" in key}
        torch.save(branch, tmp_path / "RealCustom.pth")
        save_file({key: state[key] for key in state.keys() - branch.keys()}, tmp_path / "base.safetensors")
        return [tmp_path / "RealCustom.pth", tmp_path / "base.safetensors"]

    def test_one_file_or_two_in_any_order_are_the_same(self, files, state, tmp_path):
        torch.save(state, tmp_path / "all.bin")
        given = [files, files[::-1], [tmp_path / "all.bin"]]
        both = [
            (one.adapter.state_dict(), one.unet.state_dict()) for one in (convert_unet(some, CONFIG) for some in given)
        ]
        for adapter, unet in both[1:]:
            assert all(torch.equal(adapter[key], one) for key, one in both[0][0].items())
            assert all(torch.equal(unet[key], one) for key, one in both[0][1].items())

    def test_the_branch_alone_is_an_adapter(self, files):
        converted = convert_unet(files[:1], CONFIG)
        assert converted.unet is None
        assert converted.adapter.scoring is None
        assert list(converted.sources.values()) == [
            [f"{about('unet')['n_keys']['added_by_vision_branch']} keys of the RealCustom part"]
        ]

    def test_keys_that_are_not_expected_are_refused(self, state, tmp_path):
        for change, told in (({"surplus.weight": torch.zeros(1)}, "1 unexpected: surplus.weight"), ({}, "missing")):
            changed = {**state, **change}
            if not change:
                del changed["conv_in.weight"]
            save_file(changed, tmp_path / "odd.safetensors")
            with pytest.raises(CheckpointMismatch, match=told):
                convert_unet([tmp_path / "odd.safetensors"], CONFIG)

    def test_a_branch_that_lacks_something_is_refused(self, state):
        branch = {key: one for key, one in state.items() if "vision" in key}
        value = next(key for key in branch if "to_v_vision" in key)
        for lacking in (value, "encoder_hidden_states_vision_projection.projector_base.weight"):
            with pytest.raises(CheckpointMismatch, match="missing"):
                adapter_of({key: one for key, one in branch.items() if key != lacking}, CONFIG)

    def test_two_files_that_disagree_are_refused(self, files, state, tmp_path):
        key = "encoder_hidden_states_vision_projection.projector_base.bias"
        save_file({key: state[key] + 1}, tmp_path / "other.safetensors")
        with pytest.raises(InputError, match=f"disagree about {key}"):
            convert_unet([*files, tmp_path / "other.safetensors"], CONFIG)

    def test_the_shallow_variant_drops_what_is_never_used_and_names_it(self):
        prefix, width = "encoder_hidden_states_vision_projection.", about("projector_shallow")["config"]["out_dim"]
        branch = {f"{prefix}{key}": one for key, one in weights("projector_shallow").items()}
        layer = "mid_block.attentions.0.transformer_blocks.0.attn2"
        branch |= {f"{layer}.to_{part}_vision.weight": torch.randn(8, width) for part in "kv"}
        with pytest.raises(InputError, match="needs the authors' configuration"):
            adapter_of(branch, CONFIG)
        layers = {"siglip_config": {"feature_index": [9, 2]}, "dino_config": {"feature_index": [3, 8]}}
        config = {**CONFIG, "vision_model_config": {"vision_model_config": {"params": layers}}}
        adapter, dropped = adapter_of(branch, config)
        assert adapter.config["feature_layers"] == {"siglip": [2, 9], "dino": [3, 8]}
        unused = (f"{prefix}min_attention.", f"{prefix}projector.")
        assert sorted(dropped) == sorted(key for key in branch if key.startswith(unused))
        assert adapter.projector.local_attention is None


class TestReading:
    def test_what_is_no_state_dict_is_refused(self, tmp_path):
        (tmp_path / "text.pth").write_text("hello")
        torch.save({"a": 1}, tmp_path / "numbers.pth")
        torch.save(torch.zeros(2), tmp_path / "tensor.pth")
        (tmp_path / "torn.safetensors").write_bytes(b"12")
        for name in ("text.pth", "torn.safetensors", "absent.pth"):
            with pytest.raises(InputError, match=r"is no file of tensors|cannot be read as a state dict") as told:
                read_state(tmp_path / name)
            assert "weights_only" not in str(told.value)
        for name in ("numbers.pth", "tensor.pth"):
            with pytest.raises(InputError, match="holds no state dict"):
                read_state(tmp_path / name)

    def test_nothing_of_a_pickle_is_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "owned"), "w"))

        torch.save({"a": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(InputError, match="is no file of tensors as PyTorch or safetensors write it, or holds more"):
            read_state(tmp_path / "evil.pth")
        assert not (tmp_path / "owned").exists()


@torch.no_grad()
def test_clip_features_are_the_last_but_one_states(tiny):
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    encoder = tiny._fixed(transformers.CLIPVisionModel, config)
    pixels = torch.rand(2, 3, 28, 28)
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    normed = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    expected = encoder(normed, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(clip_features(pixels, encoder).deep, expected)
