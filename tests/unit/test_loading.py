from __future__ import annotations

import json

import diffusers
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from realcustom.adapter import RealCustomAdapter
from realcustom.errors import CheckpointMismatch, InputError
from realcustom.loading import (
    construct,
    load_components,
    load_model,
    load_part,
    load_strictly,
    model_hash,
    resolve,
    wanted_files,
)
from realcustom.pipeline import RealCustomPipeline


@pytest.fixture(params=["adapter", "text_encoder", "unet"])
def saved(tiny, tmp_path, request):
    """The class of a component, the component, its folder and its file of tensors."""
    parts = {"adapter": lambda: tiny.adapter(tiny.unet()), "text_encoder": tiny.text_encoder, "unet": tiny.unet}
    component = parts[request.param]()
    component.save_pretrained(tmp_path)
    return type(component), component, tmp_path, next(tmp_path.glob("*.safetensors"))


def test_every_tensor_comes_back_bit_for_bit(saved):
    kind, component, folder, _ = saved
    loaded, own = load_strictly(kind, folder), component.state_dict()
    assert not loaded.training
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_the_numbers_are_of_the_type_that_is_asked_for(saved):
    kind, _, folder, _ = saved
    loaded = load_strictly(kind, folder, torch.float16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}


def test_a_missing_and_a_surplus_tensor_are_both_named(saved):
    kind, _, folder, file = saved
    tensors = load_file(file)
    renamed = sorted(tensors)[-1]
    tensors["surplus.weight"] = tensors.pop(renamed)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatch, match=rf"1 missing: {renamed}; 1 unexpected: surplus\.weight") as caught:
        load_strictly(kind, folder)
    assert (caught.value.missing, caught.value.unexpected) == ([renamed], ["surplus.weight"])


def test_a_tensor_of_another_shape_is_named(saved):
    kind, _, folder, file = saved
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name] = torch.zeros(3, 5, 7)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatch, match=f"1 of another shape: {name}"):
        load_strictly(kind, folder)


def test_a_damaged_file_is_an_input_error(saved):
    kind, _, folder, file = saved
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"could not load {kind.__name__} from"):
        load_strictly(kind, folder)


@pytest.mark.parametrize("kind", [RealCustomAdapter, transformers.BertModel, diffusers.UNet2DConditionModel])
def test_a_folder_that_is_not_there_is_an_input_error(kind, tmp_path):
    with pytest.raises(InputError, match=f"could not load {kind.__name__} from"):
        load_strictly(kind, tmp_path / "nowhere")


def test_a_pickle_is_never_read(tiny, tmp_path):
    tiny.unet().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match="could not load UNet2DConditionModel"):
        load_strictly(diffusers.UNet2DConditionModel, tmp_path)


def test_only_components_of_known_libraries_are_loaded(tmp_path):
    index = {"_class_name": "RealCustomPipeline", "unet": ["foreign.models", "UNet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"the component unet of .* is a foreign\.models\.UNet"):
        load_components(tmp_path, ["unet"], {})
    assert load_components(tmp_path, ["unet"], {"unet": "given"}) == {"unet": "given"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "UNetOfMine"}, "names no model of diffusers: 'UNetOfMine'"),
        ({"architectures": ["BertOfMine"]}, "names no model of transformers: 'BertOfMine'"),
        ({}, "names no model of transformers: ''"),
    ],
)
def test_a_folder_whose_config_names_no_known_model_is_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("component", "arguments", "message"),
    [
        (diffusers.DDIMScheduler, {"steps": 3}, "schedule cannot be used for a DDIMScheduler: .*'steps'"),
        (diffusers.DDIMScheduler, {"beta_schedule": "steep"}, "schedule cannot be used for a DDIMScheduler: steep"),
        (RealCustomAdapter.for_unet, {"depth": 3}, "schedule cannot be used for a RealCustomAdapter: .*'unet'"),
    ],
)
def test_arguments_that_a_component_does_not_take_are_refused(component, arguments, message):
    with pytest.raises(InputError, match=message):
        construct(component, arguments, "schedule")


def test_resolving_names_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the name of the model is empty"):
        resolve("")
    with monkeypatch.context() as installed:
        installed.setattr("realcustom.loading.embedded_folder", lambda name: tmp_path / name)
        with pytest.raises(InputError, match=r"'stickers' is missing from this installation .*install it again"):
            resolve("stickers")
    with pytest.raises(InputError, match=r"holds no model_index\.json"):
        resolve(tmp_path)
    with pytest.raises(InputError, match=r"called 'stickres'\. Did you mean 'stickers'\?"):
        resolve("stickres", local_files_only=True)
    (tmp_path / "model_index.json").write_text("{}")
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path


def test_the_hash_of_a_model_is_that_of_its_parts_and_not_of_their_spelling(tiny, tmp_path):
    pipeline = tiny.pipeline()
    before = model_hash(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = RealCustomPipeline.from_pretrained(tmp_path)
    assert model_hash(loaded) == before
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    del config["own_queries"]  # as an older version wrote it, before there was this option
    (tmp_path / "adapter" / "config.json").write_text(json.dumps(config))
    assert model_hash(RealCustomPipeline.from_pretrained(tmp_path)) == before
    assert model_hash(tiny.pipeline(mask_scope=0.9)) == before
    others = {"mask_layers": ["mid_block"], "mask_normalization": "min_max", "force_zeros_for_empty_prompt": False}
    for name, value in others.items():
        assert model_hash(tiny.pipeline(**{name: value})) != before, name
    assert model_hash(tiny.pipeline(mask_normalization="max", force_zeros_for_empty_prompt=True)) == before
    loaded.unet.conv_out.bias.data += 1
    assert model_hash(loaded) != before


REPOSITORY = [
    "README.md", "model_index.json", "sd_xl_base_1.0.safetensors", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/merges.txt", "unet/openvino_model.xml",
]  # fmt: skip


def test_only_the_files_that_are_read_are_fetched():
    told = {"README.md", "model_index.json", "unet/config.json", "vae/config.json", "tokenizer/merges.txt"}
    vae, unet = "vae/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model"
    parts = ["unet", "vae", "tokenizer"]
    assert set(wanted_files(REPOSITORY, None, parts)) == told | {vae, f"{unet}.safetensors"}
    assert set(wanted_files(REPOSITORY, "fp16", parts)) == told | {vae, f"{unet}.fp16.safetensors"}
    older = [*REPOSITORY, "vae_1_0/diffusion_pytorch_model.safetensors"]
    assert set(wanted_files(older, None, parts)) == told | {vae, f"{unet}.safetensors"}
    alone = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "image_encoder/model.safetensors"]
    assert set(wanted_files(alone)) == set(alone)


class TestHub:
    """A hub that cannot be reached, in the way in which its library says so, and one that can."""

    @pytest.fixture
    def hub(self, monkeypatch):
        files = {
            "held": ["adapter/config.json", "adapter/diffusion_pytorch_model.safetensors"],
            "pickles": ["RealCustom.pth"],
        }
        asked = {}

        def listed(_, name, revision=None):
            kind = name.split("/")[1]
            if kind not in files:
                raise LookupError("no route to host")  # httpx raises classes of its own, which are no OSError
            return files[kind]

        def fetched(name, local_files_only=False, **options):
            asked[name] = options
            if local_files_only and name != "me/cached":
                raise LocalEntryNotFoundError("not in the cache")
            return f"/cache/{name}"

        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
        monkeypatch.setattr("realcustom.loading.snapshot_download", fetched)
        return asked

    def test_what_was_fetched_before_is_taken_without_a_connection(self, hub):
        assert str(resolve("me/cached")) == "/cache/me/cached"

    def test_what_was_not_is_named_with_the_reason(self, hub):
        with pytest.raises(
            InputError, match=r"reachable hub model called 'me/absent'\. \(LookupError: no route to host\)"
        ):
            resolve("me/absent")

    def test_a_part_is_fetched_with_its_weights(self, hub):
        assert str(resolve("me/held")) == "/cache/me/held"
        assert "adapter/diffusion_pytorch_model.safetensors" in hub["me/held"]["allow_patterns"]

    def test_pickles_are_not_fetched_and_named(self, hub):
        with pytest.raises(InputError, match=r"it holds RealCustom\.pth, which are pickled: convert them once"):
            resolve("me/pickles")


class TestPart:
    def test_a_saved_adapter_is_a_part(self, tiny, tmp_path):
        adapter = tiny.adapter(tiny.unet())
        adapter.save_pretrained(tmp_path)
        for folder in (tmp_path, str(tmp_path)):
            parts = load_part(folder)
            assert list(parts) == ["adapter"]
            assert all(
                torch.equal(one, adapter.state_dict()[key]) for key, one in parts["adapter"].state_dict().items()
            )

    def test_it_may_bring_its_encoders(self, tiny, tmp_path):
        tiny.adapter(tiny.unet()).save_pretrained(tmp_path / "adapter")
        tiny.text_encoder().save_pretrained(tmp_path / "image_encoder")
        assert list(load_part(tmp_path)) == ["adapter", "image_encoder"]

    def test_pickles_are_named_with_the_command_that_converts_them(self, tmp_path):
        (tmp_path / "RealCustom_highres.pth").write_bytes(b"")
        with pytest.raises(InputError, match=r"it holds RealCustom_highres\.pth, which are pickled: convert them once"):
            load_part(tmp_path)
        with pytest.raises(InputError, match="reachable hub model called 'nobody/nothing'"):
            load_part("nobody/nothing", local_files_only=True)
