from __future__ import annotations

import json

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from realcustom.adapter import RealCustomAdapter
from realcustom.errors import CheckpointMismatch, InputError
from realcustom.loading import load_components, load_strictly, resolve


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


def test_resolving_names_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match=r"holds no model_index\.json"):
        resolve(tmp_path)
    with pytest.raises(InputError, match=r"called 'stickres'\. Did you mean 'stickers'\?"):
        resolve("stickres", local_files_only=True)
    (tmp_path / "model_index.json").write_text("{}")
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path
