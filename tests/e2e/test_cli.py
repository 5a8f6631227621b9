"""The command, as a user types it, on a tiny model in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

from realcustom.apps import words
from realcustom.apps.cli import main


@pytest.fixture
def run(model, subject, tmp_path, capsys):
    def run(*extra, prompt="a robot on the beach", word="robot", picture=subject):
        code = main(
            ["generate", str(picture), prompt, "--word", word, "--model", str(model), "--device", "cpu", *extra]
        )
        return code, capsys.readouterr()

    return run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_writes_the_picture_and_reports_the_seed(run, tmp_path):
    code, said = run("--output", str(tmp_path / "new.png"), "--seed", "7")
    assert code == 0, said.err
    assert "seed 7" in said.out
    assert pixels(tmp_path / "new.png").shape == (32, 32, 3)


def test_names_the_picture_after_the_prompt_and_reports_a_random_seed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run()
    (written,) = tmp_path.glob("a-robot-on-the-beach-*.png")
    assert code == 0
    assert f"(seed {written.stem.rsplit('-', 1)[1]})" in said.out


def test_picture_of_a_batch_is_the_single_run_with_its_seed(run, tmp_path):
    assert run("--output", str(tmp_path / "many.png"), "--seed", "3", "--num-images", "3")[0] == 0
    assert run("--output", str(tmp_path / "one.png"), "--seed", "5")[0] == 0
    assert np.abs(pixels(tmp_path / "many-3.png") - pixels(tmp_path / "one.png")).max() <= 1
    assert np.abs(pixels(tmp_path / "many-1.png") - pixels(tmp_path / "one.png")).max() > 1


def test_json_is_the_only_thing_on_standard_output(run, tmp_path):
    code, said = run("--output", str(tmp_path / "new.png"), "--seed", "7", "--json", "--save-masks")
    about = json.loads(said.out)
    assert code == 0
    beside = {kind: str(tmp_path / f"new-{kind.replace('_', '-')}.png") for kind in ("mask", "mask_over", "mask_strip")}
    masks = [str(tmp_path / f"new-mask-step-0{number}.png") for number in (1, 2, 3)]
    assert about["pictures"] == [{"image": str(tmp_path / "new.png"), "seed": 7, **beside, "mask_steps": masks}]
    assert about["report"]["subjects"][0]["words"][0]["text"] == "robot"
    steps = {f"new-mask-step-0{number}.png" for number in (1, 2, 3)}
    written = {path.name for path in tmp_path.glob("new*.png")}
    assert written == {"new.png", "new-mask.png", "new-mask-over.png", "new-mask-strip.png", *steps}


def test_options_reach_the_pipeline(run, tmp_path):
    changes = {
        "steps": ("--steps", "5"), "scheduler": ("--scheduler", "dpm++"), "negative": ("--negative-prompt", "a dog"),
        "text": ("--guidance-scale", "9"), "subject": ("--subject-guidance-scale", "9"), "scope": ("--mask-scope", "0.9"),
        "final": ("--final-mask-scope", "0.1"), "ratio": ("--token-ratio", "0.1"), "scale": ("--subject-scale", "0.1"),
    }  # fmt: skip
    assert run("--output", str(tmp_path / "plain.png"), "--seed", "1")[0] == 0
    for name, extra in changes.items():
        code, said = run("--output", str(tmp_path / f"by-{name}.png"), "--seed", "1", *extra)
        assert code == 0, said.err
        assert (pixels(tmp_path / f"by-{name}.png") != pixels(tmp_path / "plain.png")).any(), name
    assert run("--output", str(tmp_path / "wide.png"), "--width", "48", "--height", "24")[0] == 0
    assert pixels(tmp_path / "wide.png").shape == (24, 48, 3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"word": "robots' friend"}, "does not say"),
        ({"prompt": "a robot and a robot"}, "2 times; choose one with --occurrence 1 to 2"),
        ({"prompt": "a a a a a a a a a a a a a a a a a a robot"}, "beyond the 16 tokens"),
        ({"picture": Path("absent.png")}, "there is no picture absent.png"),
        ({"picture": Path(__file__)}, "cannot be read as a picture"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(run, tmp_path, monkeypatch, extra, message):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    code, said = run(**extra)
    assert code == 2
    assert message in said.err
    assert said.out == ""
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--output", "new.jpg"), "must end in .png"),
        (("--output", "absent/new.png"), "does not exist"),
        (("--output", "subject.png"), "exists"),
        (("--num-images", "0"), "at least 1"),
        (("--steps", "0"), "at least 1"),
        (("--width", "30"), "multiple of 4"),
        (("--scheduler", "dimm"), "Did you mean 'ddim'"),
        (("--scheduler", "FlowMatchEulerDiscreteScheduler"), "no discrete noise schedule"),
        (("--device", "nonsense"), "cannot be used"),
        (("--mask-scope", "2"), "--mask-scope must be a share from 0 to 1"),
        (("--height", "30"), "--height must be a positive multiple"),
        (("--occurrence", "2"), "--occurrence must be from 1 to 1"),
        (("--subject-scale", "1e9"), "--subject-scale must be a number"),
        (("--word", ""), "--word is empty"),
        (("--output", ".png"), "the output .png has no name before .png"),
        (("--output", "subject.png/new.png"), "cannot lie in subject.png, which is a file"),
        (("--scheduler", "AmusedScheduler"), "the scheduler AmusedScheduler cannot be built"),
        (("--scheduler", "VQDiffusionScheduler"), "the scheduler VQDiffusionScheduler cannot be built"),
        (("--scheduler", "RePaintScheduler"), "RePaintScheduler cannot take --steps 3"),
        (("--scheduler", "CogVideoXDPMScheduler"), "CogVideoXDPMScheduler cannot take --steps 3"),
        (("--scheduler", "UnCLIPScheduler"), "UnCLIPScheduler cannot take --steps 3"),
        (("--scheduler", "pndm", "--steps", "1"), "PNDMScheduler cannot take --steps 1"),
        (("--scheduler", "SchedulerMixin"), "there is no scheduler"),
        (("--scheduler", "KDPM2AncestralDiscreteScheduler", "--steps", "4"), "no finite timesteps for --steps 4"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(run, tmp_path, monkeypatch, extra, message):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, said = run(*extra)
    assert code == 2
    assert message in said.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_truncated_picture_is_an_error(run, subject, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(subject.read_bytes()[:60])
    code, said = run(picture=broken)
    assert code == 2
    assert "cannot be read as a picture" in said.err


def test_existing_output_is_replaced_only_when_asked(run, tmp_path):
    target = tmp_path / "new.png"
    target.write_bytes(b"mine")
    assert run("--output", str(target))[0] == 2
    assert target.read_bytes() == b"mine"
    assert run("--output", str(target), "--overwrite")[0] == 0
    assert pixels(target).shape == (32, 32, 3)


def test_unknown_model_is_named(run, capsys, subject):
    code = main(["generate", str(subject), "a robot", "--word", "robot", "--model", "sticker"])
    assert code == 2
    assert "Did you mean 'stickers'" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate"])
    assert "usage: realcustom generate" in capsys.readouterr().err


def test_module_is_the_command():
    said = subprocess.run([sys.executable, "-m", "realcustom", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("realcustom ")


class TestWords:
    def test_shows_tokens_and_which_occurrence_to_name(self, model, capsys):
        assert main(["words", "a red dog and a dog", "--model", str(model)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "a    a  --occurrence 1", "red  red", "dog  dog  --occurrence 1", "and  and", "a    a  --occurrence 2",
            "dog  dog  --occurrence 2",
        ]  # fmt: skip

    def test_says_what_is_cut_off(self, model, capsys):
        assert main(["words", " ".join(["a dog"] * 7) + " on the beach", "--model", str(model), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["cut_off"] == "on the beach"
        assert [word["text"] for word in said["words"] if not word["read"]] == ["on", "the", "beach"]

    @pytest.mark.parametrize("name", ["stickres", "Stickers", "STICKER"])
    def test_an_unknown_model_is_wrong_input_and_no_network_is_asked(self, capsys, monkeypatch, name):
        monkeypatch.setattr(words, "resolve", lambda *_: pytest.fail("it was looked for"))
        assert main(["words", "a dog", "--model", name]) == 2
        assert "Did you mean 'stickers'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--seed", str(2**64)), "--seed must be from"),
        (("--seed", str(2**64 - 1), "--num-images", "2"), "--seed must be from"),
        (("--guidance-scale", "nan"), "--guidance-scale must be a number"),
        (("--steps", "1001"), "--steps must be at most 1000"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(run, tmp_path, extra, message):
    code, said = run("--output", str(tmp_path / "new.png"), *extra)
    assert code == 2
    assert message in said.err
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize("name", ["LMSDiscreteScheduler", "DPMSolverSDEScheduler"])
def test_a_scheduler_that_needs_another_package_says_what_to_install(run, monkeypatch, name):
    stands_in = type(name, (), {"_backends": ["torch", "no_such_package"]})
    monkeypatch.setattr(diffusers, name, stands_in, raising=False)
    code, said = run("--scheduler", name)
    assert code == 2
    assert f"{name} needs a package that is not installed; install it with: pip install no_such_package" in said.err


def test_a_scheduler_of_another_solver_is_refused_in_one_line(tiny, subject, tmp_path, capsys):
    solver = diffusers.DPMSolverMultistepScheduler.from_config(tiny.scheduler().config)  # which says dpmsolver++
    tiny.pipeline(scheduler=solver).save_pretrained(tmp_path / "solver")
    arguments = ["generate", str(subject), "a robot", "--word", "robot", "--model", str(tmp_path / "solver")]
    assert main([*arguments, "--device", "cpu", "--scheduler", "SASolverScheduler"]) == 2
    said = capsys.readouterr().err
    assert "the scheduler SASolverScheduler cannot be built from this model's noise schedule" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("value", "taken"), [("-1e-1", -0.1), ("-1E+1", -10), ("-.5", -0.5), ("-2.", -2), ("-3", -3)])
def test_negative_numbers_are_values(run, tmp_path, value, taken):
    code, said = run("--output", str(tmp_path / "new.png"), "--guidance-scale", value, "--json")
    assert code == 0, said.err
    assert json.loads(said.out)["settings"]["guidance_scale"] == taken


@pytest.mark.parametrize("value", ["-inf", "-Infinity", "-1e4"])
def test_negative_numbers_that_are_too_large_are_named(run, value):
    code, said = run("--guidance-scale", value)
    assert code == 2
    assert "--guidance-scale must be a number from -1000" in said.err


@pytest.mark.parametrize(
    "arguments", [["subject", "check", ""], ["generate", "a.png", "a dog", "--word", "dog", "-o", ""]], ids=" ".join
)
def test_an_empty_name_of_a_file_is_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "the name of a file is empty" in capsys.readouterr().err


def test_json_names_every_file(run, tmp_path):
    code, said = run("--output", str(tmp_path / "new.png"), "--json", "--save-masks", "--twin", "--num-images", "2")
    assert code == 0, said.err
    told = json.loads(said.out)["pictures"]
    named = [value for one in told for value in [*one.values(), *one["mask_steps"]] if isinstance(value, str)]
    assert sorted(named) == sorted(str(path) for path in tmp_path.glob("new*.png"))


def test_a_folder_in_the_way_is_refused_even_if_files_may_be_replaced(run, tmp_path):
    (tmp_path / "new-2.png").mkdir()
    code, said = run("--output", str(tmp_path / "new.png"), "--num-images", "2", "--overwrite")
    assert code == 2
    assert "new-2.png is a folder" in said.err
    assert not (tmp_path / "new-1.png").exists()
