from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from realcustom.finding import Place
from realcustom.integrity import (
    check,
    check_layout,
    check_manifest,
    make_manifest,
    problems,
    safetensors_fault,
    write_manifest,
)

INDEX = {
    "_class_name": "RealCustomPipeline",
    "_diffusers_version": "0.40.0",
    "adapter": [None, None],
    "guidance_scale": 4.0,
    "mask_layers": ["up_blocks.1", "up_blocks.2"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "BertModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
FILES = {
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.txt", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}  # fmt: skip
UNET = "unet/diffusion_pytorch_model"


def save_weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"one": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.ones(4, np.float16)}, path)


@pytest.fixture
def weights(tmp_path):
    save_weights(tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def model(tmp_path):
    """A folder in diffusers' layout whose weights are a few numbers."""
    folder = tmp_path / "model"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a\nb\n" if name.endswith(".txt") else "{}")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    save_weights(folder / "text_encoder" / "model.safetensors")
    save_weights(folder / f"{UNET}.safetensors")
    return folder


def shard(model):
    """Give the UNet two shards and their index instead of one file."""
    (model / f"{UNET}.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in shards:
        save_weights(model / "unet" / name)
    weight_map = {"first": shards[0], "second": shards[1], "third": shards[1]}
    (model / f"{UNET}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return [f"unet/{name}" for name in shards]


def unsound(states):
    return {state.name: (state.state, state.why) for state in states if state.state != "whole"}


class TestSafetensors:
    def test_nothing_is_wrong_with_a_whole_file(self, weights):
        assert safetensors_fault(weights) == ""

    @pytest.mark.parametrize("kept", [-1, -30, 40, 9])
    def test_a_file_that_was_cut_off(self, weights, kept):
        content = weights.read_bytes()
        weights.write_bytes(content[:kept])
        assert safetensors_fault(weights).startswith("is cut off: it has ")
        if kept < 0:
            assert safetensors_fault(weights).endswith(f"its header tells of {len(content)}")

    def test_a_file_with_something_behind_its_tensors(self, weights):
        weights.write_bytes(weights.read_bytes() + b"more")
        assert safetensors_fault(weights).startswith("is too long: ")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x02\x00\x00",
            b"PK\x03\x04\x00\x00\x08\x08" + b"\x00" * 64,
            b"\x80\x02}q\x00(X\x04\x00\x00\x00onesq\x01",
            b"version https://git-lfs.github.com/spec/v1\n",
            struct.pack("<Q", 7) + b"no json",
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 10) + b'{"one": 1}',
            struct.pack("<Q", 2**62) + b"{}",
        ],
    )
    def test_a_file_that_is_of_another_kind(self, weights, content):
        weights.write_bytes(content)
        assert safetensors_fault(weights) == "does not begin with a header of safetensors"

    @pytest.mark.parametrize(
        "tensors",
        [
            {"one": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
            {"one": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
            {"one": {"dtype": "no type", "shape": [2], "data_offsets": [0, 8]}},
        ],
    )
    def test_a_header_that_fits_the_length_and_not_itself(self, weights, tensors):
        header = json.dumps(tensors).encode()
        weights.write_bytes(struct.pack("<Q", len(header)) + header + b"\x00" * 8)
        assert safetensors_fault(weights).startswith("has a header that contradicts itself (")


class TestLayout:
    def test_every_file_of_a_whole_model_is_named(self, model):
        states = check_layout(model)
        assert {state.name for state in states} == FILES
        assert unsound(states) == {}
        assert all(state.size == state.path.stat().st_size and state.path == model / state.name for state in states)

    @pytest.mark.parametrize("name", sorted(FILES - {"tokenizer/vocab.txt"}))
    def test_a_missing_file_is_named(self, model, name):
        (model / name).unlink()
        assert unsound(check_layout(model)) == {name: ("missing", "is missing")}

    def test_a_tokenizer_needs_a_vocabulary_that_holds_something(self, model):
        (model / "tokenizer" / "vocab.txt").write_text("")
        assert unsound(check_layout(model)) == {"tokenizer/vocab.txt": ("broken", "is empty")}
        (model / "tokenizer" / "vocab.txt").unlink()
        assert unsound(check_layout(model)) == {"tokenizer/tokenizer.json": ("missing", "is missing")}

    def test_a_missing_folder_is_named_once(self, model):
        for path in (model / "unet").iterdir():
            path.unlink()
        (model / "unet").rmdir()
        missing = ("missing", "is missing, the folder of the UNet2DConditionModel")
        assert unsound(check_layout(model)) == {"unet/": missing}

    @pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".json")))
    @pytest.mark.parametrize("content", [b'{"one": ', b"[]", b"\xff\xfe"])
    def test_json_that_is_no_object_is_broken(self, model, name, content):
        (model / name).write_bytes(content)
        ((found, (state, why)),) = unsound(check_layout(model)).items()
        assert (found, state) == (name, "broken")
        assert "JSON" in why

    def test_cut_off_weights_are_broken(self, model):
        path = model / f"{UNET}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        ((name, (state, why)),) = unsound(check_layout(model)).items()
        assert (name, state) == (f"{UNET}.safetensors", "broken")
        assert "cut off" in why

    def test_every_shard_must_be_there_and_whole(self, model):
        shards = shard(model)
        index = f"{UNET}.safetensors.index.json"
        names = {state.name for state in check_layout(model)}
        assert names == FILES - {f"{UNET}.safetensors"} | {index, *shards}
        assert unsound(check_layout(model)) == {}
        (model / shards[0]).write_bytes((model / shards[0]).read_bytes()[:-2])
        (model / shards[1]).unlink()
        states = unsound(check_layout(model))
        assert {name: state for name, (state, _) in states.items()} == {shards[0]: "broken", shards[1]: "missing"}

    @pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": {"one": 1}}'])
    def test_an_index_must_name_shards(self, model, content):
        shard(model)
        index = f"{UNET}.safetensors.index.json"
        (model / index).write_text(content)
        assert unsound(check_layout(model))[index] == ("broken", "names no files in its weight_map")

    def test_pickles_and_other_variants_are_never_read(self, model):
        (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
        (model / "v1-5.ckpt").write_bytes(b"pickled")
        save_weights(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
        assert unsound(check_layout(model)) == {
            "unet/diffusion_pytorch_model.bin": ("not read", "is pickled, which is never read"),
            "unet/diffusion_pytorch_model.fp16.safetensors": (
                "not read", "is not read: no component's weights are called so",
            ),
            "v1-5.ckpt": ("not read", "is pickled, which is never read"),
        }  # fmt: skip
        assert problems(Place("model", "folder", model), check_layout(model)) == []

    def test_a_pickle_is_no_replacement(self, model):
        (model / f"{UNET}.safetensors").rename(model / f"{UNET}.bin")
        states = unsound(check_layout(model))
        assert {name: state for name, (state, _) in states.items()} == {
            f"{UNET}.safetensors": "missing", f"{UNET}.bin": "not read",
        }  # fmt: skip


class TestManifest:
    @pytest.fixture
    def manifested(self, model):
        write_manifest(model)
        return model

    def test_it_tells_every_file_but_card_logs_and_what_is_hidden(self, model):
        for name in ("README.md", "manifest.json", "training/log.jsonl", ".cache/state.json", ".gitattributes"):
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_text("{}")
        (model / "licenses.json").write_text("{}")
        told = make_manifest(model)
        assert told.keys() == FILES | {"licenses.json"}
        empty_object = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        assert told["licenses.json"] == {"size": 2, "sha256": empty_object}

    def test_what_was_written_is_whole(self, manifested):
        states = check_manifest(manifested)
        assert unsound(states) == {}
        assert {state.name for state in states} == FILES | {"manifest.json"}

    def test_a_changed_byte_is_seen(self, manifested):
        path = manifested / f"{UNET}.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert unsound(check_layout(manifested)) == {}
        ((name, (state, why)),) = unsound(check_manifest(manifested)).items()
        assert (name, state) == (f"{UNET}.safetensors", "broken")
        assert why.startswith("has changed: its sha256 is not ")

    def test_another_length_is_told(self, manifested):
        (manifested / "unet" / "config.json").write_text('{"a": 1}')
        assert unsound(check_manifest(manifested)) == {"unet/config.json": ("broken", "has 8 bytes instead of 2")}

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"unet/config.json": {"size": 2}}', '{"a": 1}'])
    def test_a_broken_manifest_is_all_that_is_told(self, manifested, content):
        (manifested / "manifest.json").write_text(content)
        ((name, (state, _)),) = unsound(check_manifest(manifested)).items()
        assert (name, state) == ("manifest.json", "broken")

    def test_each_file_is_told_once_with_what_says_most(self, manifested):
        path = manifested / f"{UNET}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        (manifested / "tokenizer" / "vocab.txt").write_text("b\na\n")
        states = check(Place("model", "folder", manifested))
        assert len({state.name for state in states}) == len(states) == len(FILES) + 1
        reasons = {name: why for name, (_, why) in unsound(states).items()}
        assert reasons.keys() == {f"{UNET}.safetensors", "tokenizer/vocab.txt"}
        assert "cut off" in reasons[f"{UNET}.safetensors"]
        assert "sha256" in reasons["tokenizer/vocab.txt"]

    def test_a_manifest_that_leaves_files_out_hides_nothing(self, manifested):
        told = make_manifest(manifested)
        kept = {name: told[name] for name in told if not name.startswith("unet")}
        (manifested / "manifest.json").write_text(json.dumps(kept))
        (manifested / f"{UNET}.safetensors").unlink()
        assert unsound(check(Place("model", "folder", manifested))).keys() == {f"{UNET}.safetensors"}

    def test_only_an_embedded_model_must_have_one(self, model):
        assert unsound(check(Place("model", "folder", model))) == {}
        assert unsound(check(Place("model", "embedded", model))) == {"manifest.json": ("missing", "is missing")}


def test_every_problem_has_the_command_that_repairs_it(model):
    path = model / f"{UNET}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (model / "unet" / "config.json").unlink()
    places = [Place("owner/name", "hub", model), Place(str(model), "folder", model), Place("it", "embedded", model)]
    hub, folder, embedded = ([one.repair for one in problems(place, check(place))] for place in places)
    assert hub == ["hf download owner/name", f"hf download owner/name {UNET}.safetensors --force-download"]
    where = f"--local-dir {model}  (ID: the hub model that it was)"
    assert folder == [f"hf download ID {where}", f"hf download ID {UNET}.safetensors --force-download {where}"]
    assert set(embedded) == {"pip install --force-reinstall --no-deps realcustom"}
    whats = [one.what for one in problems(places[0], check(places[0]))]
    assert whats[0] == f"{model / 'unet' / 'config.json'} is missing"
    assert whats[1].startswith(f"{path} is cut off: ")
