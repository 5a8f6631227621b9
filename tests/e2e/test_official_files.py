"""The authors' files, from the command to a picture on a base like theirs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertTokenizer

from parity.official import about, weights
from parity.test_metrics import SHAPES
from realcustom.apps.cli import main
from realcustom.evaluation.encoders import load_encoders
from realcustom.evaluation.image_reward import image_reward_of
from realcustom.evaluation.lpips import Lpips
from realcustom.loading import load_part, load_strictly
from reference.vit import timm_state


@pytest.fixture
def files(tmp_path):
    """As the authors publish them: pickled, the encoders in files of their own."""
    torch.save({key: one for key, one in weights("unet").items() if "vision" in key}, tmp_path / "RealCustom.pth")
    torch.save(weights("unet"), tmp_path / "whole.pth")
    torch.save(
        timm_state(hidden=32, depth=2, patch=14, grid=27, dino=False, prefix="visual.trunk."), tmp_path / "siglip.bin"
    )
    torch.save(timm_state(hidden=32, depth=2, patch=14, grid=37, dino=True), tmp_path / "dino.bin")
    (tmp_path / "sdxl.json").write_text(json.dumps(about("unet")["config"]))
    return tmp_path


def convert(folder, *more):
    return main(["convert", str(folder / "RealCustom.pth"), "--config", str(folder / "sdxl.json"), *map(str, more)])


def test_a_folder_of_all_parts(files, capsys):
    encoders = ["--siglip", files / "siglip.bin", "--dino", files / "dino.bin"]
    assert convert(files, *encoders, "-o", files / "out", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == ["adapter", "image_encoder", "image_encoder_2"]
    assert not list((files / "out").rglob("*.bin"))
    parts = load_part(files / "out")
    assert set(parts) == set(told["parts"])
    assert parts["image_encoder_2"].embeddings.position_embeddings.shape == (1, 1 + 27 * 27, 32)


def test_the_bases_unet_is_written_if_it_is_there(files, capsys):
    arguments = ["convert", str(files / "whole.pth"), "--config", str(files / "sdxl.json"), "-o", str(files / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    counts = about("unet")["n_keys"]
    assert (
        f"{counts['added_by_vision_branch']} keys of the RealCustom part, {counts['plain_sdxl']} keys of the UNet"
        in printed.err
    )
    assert set(load_part(files / "out")) == {"adapter", "unet"}
    assert main(arguments) == 2
    assert "must be the name of a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("sdxl.json", "{", "cannot be read"), ("sdxl.json", "[1]", "holds something else"),
        ("RealCustom.pth", "no", "is no file of tensors"),
    ],
)  # fmt: skip
def test_wrong_files_leave_nothing(files, capsys, name, content, told):
    (files / name).write_text(content)
    assert convert(files, "-o", files / "out") == 2
    assert told in capsys.readouterr().err
    assert not (files / "out").exists()
    assert not list(files.glob(".out*"))


METRICS = Path(__file__).parents[1] / "golden" / "metrics.safetensors"


def test_lpips_becomes_a_folder_that_measures(tmp_path, capsys):
    """torchvision's AlexNet and the weights of lpips, under their names."""
    held = load_file(METRICS)
    alexnet = {key.removeprefix("lpips/"): one for key, one in held.items() if key.startswith("lpips/features")}
    torch.save({**alexnet, "classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "alexnet.pth")
    torch.save({key.removeprefix("lpips/"): one for key, one in held.items() if "/lin" in key}, tmp_path / "alex.pth")
    files = [str(tmp_path / "alexnet.pth"), str(tmp_path / "alex.pth")]
    assert main(["convert", *files, "--as", "lpips", "-o", str(tmp_path / "lpips")]) == 0
    assert load_strictly(Lpips, tmp_path / "lpips").config.widths == [6, 8, 10, 8, 8]
    for more, message in (
        (["--as", "lpips", "--config", "x.json"], "--config would have no effect with --as lpips"),
        (["--as", "lpips"], "5 missing: weights.0"),
        (["--as", "image-reward"], "--tokenizer is missing"),
        ([], "--config is missing"),
    ):
        assert main(["convert", files[0], *more, "-o", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alex.pth", "alexnet.pth", "lpips"]


def test_image_reward_becomes_a_folder_with_its_tokenizer(tmp_path, capsys, monkeypatch):
    """At toy size, for which the published size is replaced; the tokenizer has as many pieces as the real one."""
    pieces = [f"[unused{number}]" for number in range(30522)]
    pieces[0], pieces[100:104], pieces[1996] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"], "the"
    for name, vocabulary in (("bert", pieces), ("other", [*pieces[:200], "the"])):
        BertTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)}).save_pretrained(tmp_path / name)
    tensors = {key.removeprefix("image_reward/"): one for key, one in load_file(METRICS).items() if "reward/" in key}
    torch.save(tensors, tmp_path / "ImageReward.pt")
    monkeypatch.setattr("realcustom.apps.convert.image_reward_of", partial(image_reward_of, **SHAPES))
    arguments = ["convert", str(tmp_path / "ImageReward.pt"), "--as", "image-reward", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--tokenizer", str(tmp_path / "other")]) == 2
    assert "is not the tokenizer of bert-base-uncased" in capsys.readouterr().err
    assert main([*arguments, "--tokenizer", str(tmp_path / "bert")]) == 0
    encoders = load_encoders(image_reward=tmp_path / "out")
    assert encoders.image_reward is not None
    assert encoders.image_reward.tokenizer("the").input_ids == [101, 1996, 102]
