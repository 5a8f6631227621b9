"""From drawings to a picture of a subject, with the commands that train the embedded model, at toy size."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
import yaml
from diffusers import AutoencoderDC
from PIL import Image

from realcustom.apps.cli import main
from realcustom.data.stickers.drawings import Drawing, DrawingStore
from realcustom.loading import load_model, load_part
from realcustom.pictures import sheet
from realcustom.pipeline import RealCustomPipeline

TRAINING = {
    "max_train_steps": 2, "train_batch_size": 2, "learning_rate": 1e-3, "lr_warmup_steps": 1, "logging_steps": 1,
    "dataloader_num_workers": 0, "mixed_precision": "no",
}  # fmt: skip
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NOISE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False}


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory):
    """A folder with drawings of dogs and cups, and a text encoder that knows these words."""
    home = tmp_path_factory.mktemp("whole-way")
    drawings, pixels = [], []
    for split in ("train", "validation"):
        for noun in ("dog", "cup", *(["crown"] if split == "train" else [])):
            style = "noto" if split == "train" else "twemoji"
            drawings.append(Drawing(noun, "toy", style, noun, split, common=noun != "crown", held_out=False))
            rgba = np.zeros((128, 128, 4), np.uint8)
            rgba[20:100, 30:90] = (200, 40, 40, 255) if noun == "dog" else (40, 40, 200, 255)
            pixels.append(rgba)
    DrawingStore(drawings, np.stack(pixels), np.array([0.0, 240.0, 240.0, 0.0, 240.0], np.float32)).save(
        home / "drawings"
    )
    tiny.text_encoder().save_pretrained(home / "text" / "text_encoder")
    tiny.tokenizer().save_pretrained(home / "text" / "tokenizer")
    return home


def train(home, part, **recipe):
    if part != "package":
        scenes = {"backgrounds": 1, "thing_share": 0.0, "kind_share": 0.0}
        data = {"source": "stickers", "folder": str(home / "drawings"), "resolution": 32, "scenes": scenes}
        recipe = {"data": data, "training": TRAINING, "validation_examples": 2, **recipe}
    path = home / f"{part}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return main(["train", part, "--config", str(path)])


def test_from_drawings_to_a_picture(home, capsys):
    sizes = {"latent_channels": 4, "encoder_block_out_channels": [8, 8, 16], "encoder_layers_per_block": [0, 1, 1],
             "encoder_qkv_multiscales": [[], [], []], "decoder_block_out_channels": [16, 16, 32],
             "decoder_layers_per_block": [0, 1, 1], "decoder_qkv_multiscales": [[], [], []]}  # fmt: skip
    assert train(home, "autoencoder", output_dir=str(home / "autoencoder"), autoencoder=sizes) == 0
    whole = str(home / "autoencoder" / "export")
    assert (
        train(home, "autoencoder", output_dir=str(home / "decoder"), initial_autoencoder=whole, frozen_encoder=True)
        == 0
    )
    before, after = (AutoencoderDC.from_pretrained(home / run / "export") for run in ("autoencoder", "decoder"))
    changed = {
        name.split(".")[0]
        for name, one in after.state_dict().items()
        if not torch.equal(one, before.state_dict()[name])
    }
    assert changed == {"decoder"}
    assert after.config.scaling_factor == before.config.scaling_factor

    unet = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "norm_num_groups": 8,
            "down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2,
            "layers_per_block": 1, "attention_head_dim": [2, 4], "cross_attention_dim": 32}  # fmt: skip
    parts = {"autoencoder": str(home / "autoencoder" / "export"), "text": str(home / "text")}
    base = home / "base"
    assert train(home, "base", output_dir=str(base), unet=unet, scheduler=NOISE, prompts=["a dog"], **parts) == 0

    adapter = {"feature_dim": 16, "token_dim": 32, "projector_depth": 1, "projector_grid": 4, "score_gain": 16.0}
    shown = home / "adapter"
    assert (
        train(home, "adapter", output_dir=str(shown), base=str(base / "export"), adapter=adapter, drawn_examples=2) == 0
    )

    together = home / "joint"
    joint = {
        "base": str(base / "export"),
        "adapter": {**adapter, "own_queries": True, "placed": True},
        "drawn_examples": 2,
        "reference_dropout": 1,
    }
    assert train(home, "joint", output_dir=str(together), **joint) == 0
    logged = (together / "log.jsonl").read_text()
    assert ("loss/text_only" in logged, "loss/subject" in logged) == (True, False)
    assert {path.name for path in (together / "export").iterdir()} >= {"unet", "adapter", "model_index.json"}

    parts = {"base": str(base / "export"), "adapter": str(shown / "export" / "adapter")}
    assert train(home, "package", output_dir=str(home / "model"), defaults={"num_inference_steps": 2}, **parts) == 0

    for told in (home / "model").rglob("*.json"):
        assert str(home) not in told.read_text(), f"{told} tells a path of this machine"

    picture = home / "dog.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    command = ["generate", str(picture), "a dog on the beach", "--word", "dog", "--model", str(home / "model")]
    assert main([*command, "--output", str(home / "new.png"), "--device", "cpu"]) == 0
    assert Image.open(home / "new.png").size == (32, 32)

    lines = [json.loads(line) for line in (shown / "log.jsonl").read_text().splitlines()]
    measured = {name for line in lines for name in line}
    assert {
        "loss",
        "scoring_gradient",
        "validation/right/500",
        "validation/wrong/500",
        "validation/error/500",
    } <= measured
    assert Image.open(shown / "samples-0000002.png").size[0] == 2 * 32 + 2


def test_judges_are_trained_and_used(home, capsys):
    scenes = {"backgrounds": 1, "colour_share": 0.5, "beside_share": 0.5}
    data = {"source": "stickers", "folder": str(home / "drawings"), "resolution": 32, "reference": "drawing",
            "scenes": scenes}  # fmt: skip
    judges = home / "judges"
    settings = {**TRAINING, "train_batch_size": 4}
    widths = {"widths": [16, 16, 16, 32], "identity_dim": 8}
    assert train(home, "judges", output_dir=str(judges), data=data, judges=widths, training=settings) == 0
    measured = {name for line in (judges / "log.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert {
        "region",
        "region beside",
        "place",
        "validation/overlap",
        "validation/place",
        "validation/beside",
    } <= measured

    command = ["evaluate", "--model", str(home / "model"), "--drawings", str(home / "drawings"), "--subset"]
    command += ["--prompts", "2", "--rows", "subject", "twin"]
    folders = ["--judges", str(judges / "export"), "--output", str(home / "evaluation")]
    capsys.readouterr()
    assert main([*command, *folders, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "oracle" in printed
    assert str(home / "evaluation" / "report.html") in printed
    report = json.loads((home / "evaluation" / "report.json").read_text())
    assert report["count"] == report["rows"]["subject"]["pictures"] == 2 * 2
    assert report["rows"].keys() == {"subject", "twin", "oracle", "copy", "drawn"}
    assert report["split"] == "validation"

    if importlib.util.find_spec("ray"):
        made_elsewhere = ["--rows", "subject", "--ray", "local", "--output", str(home / "on-ray")]
        try:
            assert main([*command[:-3], *folders[:2], *made_elsewhere, "--device", "cpu"]) == 0
        finally:
            importlib.import_module("ray").shutdown()
        made = [json.loads(line)["picture"] for line in (home / "on-ray" / "manifest.jsonl").read_text().splitlines()]
        assert len(made) == 2 * 2
        for picture in made:
            here, there = (np.asarray(Image.open(home / run / picture), int) for run in ("evaluation", "on-ray"))
            assert np.abs(here - there).max() <= 1

    work = home / "bench"
    size = ["--drawings", str(home / "drawings"), "--subset", "--prompts", "2"]
    assert main(["data", "bench", str(work), *size]) == 0
    assert "4 pictures of 2 subjects" in capsys.readouterr().out
    assert main(["data", "bench", str(work), *size]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["data", "bench", str(home / "of-one"), *size, "--subjects", "1"]) == 0
    assert "2 pictures of 1 subjects" in capsys.readouterr().out
    theirs = home / "theirs"
    theirs.mkdir()
    for line in (work / "requests.jsonl").read_text().splitlines():
        wanted = json.loads(line)
        assert wanted["word"] in wanted["prompt"]
        Image.open(work / wanted["reference"]).resize((128, 128)).save(theirs / wanted["picture"])
    judged = ["--judges", str(judges / "export"), "--pictures", str(theirs)]
    assert main(["evaluate", *size, *judged, "--output", str(home / "judged")]) == 0
    rows = json.loads((home / "judged" / "report.json").read_text())["rows"]
    assert rows["subject"]["pictures"] == 4
    assert rows["subject"]["paste"] == rows["copy"]["paste"]

    assert main([*command, "--judges", str(home / "none"), "--output", str(home / "other")]) == 2
    assert "holds no judges; train them with: realcustom train judges" in capsys.readouterr().err


def test_a_model_is_replaced_only_when_asked(home, capsys):
    (home / "kept").mkdir()
    (home / "kept" / "model_index.json").write_text("{}")
    assert train(home, "package", output_dir=str(home / "kept"), base=str(home / "base" / "export")) == 2
    assert "overwrite=true" in capsys.readouterr().err


def test_a_model_takes_the_place_of_another_as_a_whole(home):
    """Without the adapter of the one before it, or an encoder of one before that; cards, licences and logs stay."""
    model = home / "model"
    for name in ("README.md", "LICENSE", "training/joint.jsonl", "image_encoder/config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    parts = {
        "base": str(home / "base" / "export"),
        "overwrite": True,
        "output_dir": str(home / "model"),
        "scheduler": "dpm++",
    }
    assert (model / "adapter").is_dir()
    beside = set(home.iterdir())
    assert train(home, "package", **parts) == 0
    assert set(home.iterdir()) == beside
    models = {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    files = {"README.md", "LICENSE", "training", "model_index.json", "manifest.json"}
    assert {path.name for path in model.iterdir()} == models | files
    for name in ("README.md", "LICENSE", "training/joint.jsonl"):
        assert (model / name).read_text() == name
    told = json.loads((model / "manifest.json").read_text())
    assert {name.split("/")[0] for name in told} == models | {"LICENSE", "model_index.json"}
    assert "DPMSolverMultistepScheduler" in (model / "model_index.json").read_text()


def test_a_run_goes_on_with_more_steps_and_not_with_other_batches(home, capsys, caplog):
    run = {"output_dir": str(home / "decoder"), "initial_autoencoder": str(home / "autoencoder" / "export")}
    told = json.loads((home / "decoder" / "recipe.json").read_text())
    assert (told["training"]["max_train_steps"], told["frozen_encoder"], told["latent_noise"]) == (2, True, 0.1)
    longer = {**TRAINING, "max_train_steps": 3}
    assert train(home, "autoencoder", **run, frozen_encoder=True, training={**longer, "train_batch_size": 3}) == 2
    assert "training.train_batch_size is 3 instead of 2" in capsys.readouterr().err
    assert json.loads((home / "decoder" / "recipe.json").read_text()) == told
    with caplog.at_level("INFO"):
        assert train(home, "autoencoder", **run, frozen_encoder=True, training=longer) == 0
    assert "going on with a changed recipe: training.max_train_steps is 3 instead of 2" in caplog.messages
    assert json.loads((home / "decoder" / "recipe.json").read_text())["training"]["max_train_steps"] == 3
    assert (home / "decoder" / "checkpoint-0000003").is_dir()


def test_a_text_encoder_without_a_vocabulary_is_refused(home, capsys):
    (home / "mute" / "tokenizer").mkdir(parents=True)
    (home / "mute" / "text_encoder").symlink_to(home / "text" / "text_encoder")
    parts = {"autoencoder": str(home / "autoencoder" / "export"), "text": str(home / "mute")}
    assert train(home, "base", output_dir=str(home / "none"), unet={}, scheduler=NOISE, **parts) == 2
    assert "holds no vocabulary" in capsys.readouterr().err
    assert not (home / "none").exists()


def test_missing_drawings_are_named_with_the_command_that_makes_them(home, capsys):
    data = {"source": "stickers", "folder": str(home / "absent")}
    assert train(home, "autoencoder", output_dir=str(home / "none"), autoencoder={}, data=data) == 2
    assert f"realcustom data stickers {home / 'absent'}" in capsys.readouterr().err


@pytest.fixture
def bases(tiny, home):
    """Folders of bases like Stable Diffusion 1.5 and XL, and of image encoders."""
    parts = {"sd": tiny.sd_parts(length=77), "xl": tiny.sdxl_parts(length=77)}
    kinds = {
        "sd": ("StableDiffusionPipeline", NO_CHECKER),
        "xl": ("StableDiffusionXLPipeline", {"add_watermarker": False}),
    }
    for name, (kind, more) in kinds.items():
        getattr(diffusers, kind)(**parts[name], **more).save_pretrained(home / name)
    clip = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    tiny._fixed(transformers.CLIPVisionModel, clip).save_pretrained(home / "clip")
    for name, encoder in tiny.image_encoders().items():
        encoder.save_pretrained(home / name)
    return home


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_adapters_for_other_bases_are_trained_and_used(bases, family):
    """The paper's on Stable Diffusion 1.5, with a CLIP encoder; RealCustom++'s on SDXL."""
    recipe = {
        "sd": {
            "image_encoder": str(bases / "clip"), "adapter": {"feature_dim": 24, "token_dim": 24, "scoring_dim": 8},
        },
        "xl": {
            "image_encoder": str(bases / "image_encoder"), "image_encoder_2": str(bases / "image_encoder_2"),
            "adapter": {
                "feature_dim": 48, "token_dim": 64, "scoring_dim": 0, "cross_scale": {"head_dim": 16, "shallow": True},
                "feature_layers": {"siglip": [0, 1], "dino": [1, 2]},
            },
        },
    }[family]  # fmt: skip
    output = bases / f"adapter-{family}"
    assert train(bases, "adapter", output_dir=str(output), base=str(bases / family), drawn_examples=2, **recipe) == 0
    trained = load_part(output / "export")["adapter"]
    assert any(bool(layer.weight.any()) for layer in trained.to_v.values())
    encoders = {name: load_model(Path(recipe[name])) for name in ("image_encoder", "image_encoder_2") if name in recipe}
    pipeline = RealCustomPipeline.from_pretrained(bases / family, adapter=output / "export", **encoders)
    made = pipeline("a dog", Image.new("RGB", (9, 9), "red"), "dog", num_inference_steps=2)
    assert made.images[0].size[0] == pipeline.side
    assert made.report.subjects[0].words[0].text == "dog"


@pytest.fixture(scope="module")
def benchmark():
    """Return a program that lies outside the package, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")  # as if it were run
        yield importlib.import_module


@pytest.fixture(scope="module")
def ablations(benchmark):
    return benchmark("ablations")


def test_ablations_change_one_thing_a_row(home, ablations, capsys):
    size = ["--subjects", "2", "--prompts", "2", "--seeds", "1", "--drawings", str(home / "drawings")]
    places = ["--model", str(home / "joint" / "export"), "--output", str(home / "ablations")]
    capsys.readouterr()
    ablations.main(["words", "--steps", "3", *size, *places])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in ablations.TABLES["words"]]
    reports = {
        name: json.loads((home / "ablations" / folder / "report.json").read_text())
        for name, folder in (("noun", "its-noun"), ("thing", "thing"))
    }
    assert reports["noun"]["bench"] != reports["thing"]["bench"]
    assert reports["noun"]["num_inference_steps"] == 3
    assert {told for report in reports.values() for told in report["families"]} <= {"scene", "general"}


def test_a_part_without_scores_is_run_as_the_model_was(home, ablations):
    pipeline = RealCustomPipeline.from_pretrained(home / "joint" / "export")
    before = dict(pipeline.defaults)
    ablations._without_scoring(pipeline)
    assert pipeline.adapter.scoring is None
    assert dict(pipeline.defaults) == before


def test_what_is_tuned_to_each_subject_is_compared_with_its_reference(home, benchmark, tmp_path, capsys):
    recipe = tmp_path / "tuned.yaml"
    recipe.write_text(yaml.safe_dump({"phrase": "dog {word}", "unet": "keys-values", "training": TRAINING}))
    of_recipe = ["--set", "training.max_train_steps=1", "training.seed=3"]
    size = ["--subjects", "2", "--prompts", "1", "--seeds", "1", "--steps", "2", "--rows", "subject"]
    given = ["--drawings", str(home / "drawings"), "--model", str(home / "joint" / "export"), "--method", str(recipe)]
    assert main(["evaluate", *size, *given, *of_recipe, "--output", str(tmp_path / "tuned")]) == 0
    assert re.search(r"\d+ s to learn each of 64 subjects: \d+\.\d h for the whole list", capsys.readouterr().err)
    told = json.loads((tmp_path / "tuned" / "run.json").read_text())["method"]["training"]
    assert (told["max_train_steps"], told["seed"]) == (1, 3)
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "tuned", copied)
    sheets = sorted((copied / "tuning").glob("*.png"))
    assert len(sheets) == 2
    for path in sheets:  # a base that repeats its reference
        reference = Image.open(path).convert("RGB").crop((0, 0, 32, 32))
        sheet([reference] * 4, columns=4).save(path)
    capsys.readouterr()
    grid = tmp_path / "fits.png"
    benchmark("fits").main(
        [str(tmp_path / "tuned"), str(copied), "--drawings", str(home / "drawings"), "--grid", str(grid)]
    )
    rows = {line.split(" | ")[0]: line.split(" | ")[1:] for line in capsys.readouterr().out.splitlines()[3:]}
    assert {name: row[0] for name, row in rows.items()} == {"| the reference": "2", "| tuned": "6", "| copied": "6"}
    assert rows["| copied"][1:] == rows["| the reference"][1:]
    assert re.match(r"-?\.\d\d \(", rows["| tuned"][1])
    shutil.rmtree(copied / "tuning")
    with pytest.raises(SystemExit):
        benchmark("fits").main([str(copied), "--drawings", str(home / "drawings")])
    assert f"{copied} holds no tuning" in capsys.readouterr().err
    top, middle, bottom = (np.asarray(Image.open(grid))[start : start + 32 or None, -32:] for start in (-104, -68, -32))
    assert np.array_equal(top, bottom)
    assert not np.array_equal(top, middle)


def test_two_things_are_parted_and_each_is_compared_with_both(home, benchmark, tmp_path, capsys):
    two_subjects = benchmark("two_subjects")
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[2:8, 1:5], picture[7:14, 9:15] = (200, 0, 0), (0, 0, 200)
    left, right = two_subjects.parted(picture)
    assert np.array_equal(left > 0, picture[..., 0] == 200)
    assert np.array_equal(right > 0, picture[..., 2] == 200)
    assert not two_subjects.parted(np.full((16, 16, 3), 255, np.uint8)).any()
    grid = tmp_path / "pairs.png"
    given = ["--model", str(home / "joint" / "export"), "--drawings", str(home / "drawings"), "--pairs", "1"]
    two_subjects.main([*given, "--grid", str(grid)])
    head, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line]
    assert head[1:] == list(two_subjects.FIGURES)
    assert [row[0] for row in rows] == [
        "together",
        "boxed",
        "first alone",
        "second alone",
        "one by one",
        "text",
        "real",
    ]
    real = dict(zip(head, rows[-1], strict=True))
    assert 0.2 < float(real["smaller part"].split(" ")[0]) < 0.5
    assert Image.open(grid).size == (128, 9 * 128)


def test_an_autoencoder_is_measured_on_what_stickerbench_renders(home, benchmark, capsys):
    given = ["--model", str(home / "joint" / "export"), "--drawings", str(home / "drawings"), "--subjects", "2"]
    benchmark("autoencoder").main([*given, "--split", "validation"])
    found = re.fullmatch(r"40 renders of 2 subjects: (.+) \((.+) to (.+)\) dB\n", capsys.readouterr().out)
    mean, low, high = map(float, found.groups())
    assert 0 < low <= mean <= high < 20  # an autoencoder of two steps returns something grey


def test_choices_differ_in_one_thing_and_are_measured_once(home, benchmark, monkeypatch, capsys):
    choices = benchmark("choices")
    table = choices.TABLES["autoencoder"]
    kept = {name: table.variants[name] for name in ("the recipe", "a decoder half as wide")}
    monkeypatch.setitem(choices.TABLES, "autoencoder", dataclasses.replace(table, variants=kept))
    short = {**TRAINING, "lr_decay_steps": 0, "validation_steps": 2, "checkpointing_steps": 2, "ema_decay": 0}
    told = [f"training.{name}={value}" for name, value in short.items()]
    told += [
        f"data.folder={home / 'drawings'}",
        "data.resolution=32",
        "data.scenes.backgrounds=1",
        "validation_examples=2",
    ]
    for _ in range(2):
        choices.main(["autoencoder", "--output", str(home / "choices"), "--set", *told])
    first, again = capsys.readouterr().out.strip().split("\n\n")
    assert first == again
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()]
    assert head == ["autoencoder", "million parameters", "pictures", "hours", "psnr"]
    assert [row[0] for row in rows] == list(kept)
    for row in rows:
        folder = home / "choices" / f"autoencoder-{row[0].replace(' ', '-')}"
        model = AutoencoderDC.from_pretrained(folder / "export")
        assert row[1] == f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f}"
        assert row[2] == "4"
    recipes = [json.loads(path.read_text()) for path in sorted((home / "choices").glob("*/recipe.json"))]
    assert {name for name in recipes[0] if recipes[0][name] != recipes[1][name]} == {"output_dir", "autoencoder"}
