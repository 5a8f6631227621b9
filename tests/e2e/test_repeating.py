"""Pictures that say how they were made: made again, in grids, from lists, beside their twins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from realcustom.apps import batch
from realcustom.apps.cli import main
from realcustom.errors import InputError
from realcustom.provenance import read_provenance


@pytest.fixture
def command(model, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder that holds the subject's picture; return its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([*arguments, "--model", str(model), "--device", "cpu"])
        return code, capsys.readouterr()

    return command


@pytest.fixture
def generate(command, subject):
    def generate(*extra, prompt="a robot on the beach"):
        return command("generate", "subject.png", prompt, "--word", "robot", "--seed", "7", *extra)

    return generate


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


class TestTwin:
    def test_is_the_plain_picture_and_changes_nothing_of_the_other(self, generate):
        assert generate("-o", "new.png", "--twin")[0] == 0
        assert generate("-o", "alone.png")[0] == 0
        assert generate("-o", "plain.png", "--subject-scale", "0")[0] == 0
        assert np.abs(pixels("new.png") - pixels("alone.png")).max() <= 1
        assert np.abs(pixels("new-twin.png") - pixels("plain.png")).max() <= 1
        assert np.abs(pixels("new.png") - pixels("new-twin.png")).max() > 1

    def test_lies_beside_it_in_one_picture(self, generate):
        assert generate("-o", "new.png", "--twin", "--num-images", "2")[0] == 0
        both = pixels("new-2-side-by-side.png")
        assert (both[:, :32] == pixels("new-2-twin.png")).all()
        assert (both[:, -32:] == pixels("new-2.png")).all()

    def test_says_what_it_costs(self, generate):
        assert "1.7 times the time" in generate("-o", "new.png", "--twin")[1].err


class TestMasks:
    def test_masks_of_steps_are_overwritten_only_when_asked_and_none_stays(self, generate):
        Path("new-mask-step-03.png").write_bytes(b"mine")
        code, said = generate("-o", "new.png", "--save-masks", "--steps", "2")
        assert code == 2
        assert "new-mask-step-03.png exists" in said.err
        assert Path("new-mask-step-03.png").read_bytes() == b"mine"
        assert generate("-o", "new.png", "--save-masks", "--steps", "2", "--overwrite")[0] == 0
        assert sorted(path.name for path in Path().glob("new-mask-step-*")) == [
            "new-mask-step-01.png",
            "new-mask-step-02.png",
        ]

    def test_a_written_mask_given_back_is_the_one_of_the_run(self, generate):
        assert generate("-o", "new.png", "--save-masks")[0] == 0
        assert generate("-o", "again.png", "--save-masks", "--mask", "new-mask.png")[0] == 0
        assert (pixels("again-mask-step-01.png") == pixels("new-mask.png")).all()
        assert len(list(Path().glob("new-mask-step-*.png"))) == 3
        assert pixels("new-mask-over.png").shape == pixels("new.png").shape

    def test_an_edited_mask_says_where_the_subject_acts(self, generate):
        left = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
        ImageDraw.Draw(left).rectangle((0, 0, 49, 99), fill="white")
        left.save("left.png")
        assert generate("-o", "new.png", "--save-masks", "--mask", "left.png", "--mask-mode", "intersect")[0] == 0
        found = pixels("new-mask.png")
        assert found[:, :16].any()
        assert not found[:, 16:].any()

    def test_a_mode_without_a_mask_is_refused(self, generate):
        code, said = generate("--mask-mode", "union")
        assert code == 2
        assert "--mask-mode was given without --mask" in said.err


class TestMetadata:
    def test_says_everything_and_no_path(self, generate, model):
        assert generate("-o", "new.png", "--steps", "2", "--negative-prompt", "a dog")[0] == 0
        texts = Image.open("new.png").text
        assert texts["parameters"].startswith(
            "a robot on the beach\nNegative prompt: a dog\nSteps: 2, Sampler: DDIMScheduler"
        )
        assert "Seed: 7, Size: 32x32" in texts["parameters"]
        assert not any(str(part) in text for text in texts.values() for part in (model, Path.cwd(), "subject.png"))
        settings = read_provenance(Path("new.png")).settings
        assert (settings.prompt, settings.subject_word, settings.seed) == ("a robot on the beach", "robot", 7)
        assert (settings.num_inference_steps, settings.guidance_scale, settings.mask_scope) == (2, 3.0, 0.25)

    def test_can_be_left_out(self, generate, command):
        assert generate("-o", "new.png", "--no-metadata")[0] == 0
        assert Image.open("new.png").text == {}
        code, said = command("replay", "new.png", "subject.png")
        assert code == 2
        assert "new.png does not say how it was made" in said.err

    def test_that_was_tampered_with_is_refused(self, generate, command):
        from PIL.PngImagePlugin import PngInfo

        assert generate("-o", "new.png")[0] == 0
        for text, message in (
            ("{", "is no JSON"),
            ("[]", "must hold options by name"),
            ('{"model": 3}', "cannot be used"),
        ):
            texts = PngInfo()
            texts.add_itxt("realcustom", text)
            Image.open("new.png").save("changed.png", pnginfo=texts)
            code, said = command("replay", "changed.png", "subject.png")
            assert code == 2
            assert message in said.err


class TestReplay:
    @pytest.mark.parametrize(
        "extra", [(), ("--num-images", "3"), ("--twin",)], ids=["one", "of a batch", "with its twin"]
    )
    def test_makes_the_identical_picture(self, generate, command, extra):
        code, said = generate("-o", "new.png", "--scheduler", "ddpm", "--mask-scope", "0.4", *extra)
        assert code == 0, said.err
        picture = "new-2.png" if "--num-images" in extra else "new.png"
        code, said = command("replay", picture, "subject.png", "-o", "again.png", "--json")
        assert code == 0, said.err
        assert json.loads(said.out) == {"image": "again.png", "identical": True, "difference": 0, "others": []}
        assert (pixels("again.png") == pixels(picture)).all()
        assert read_provenance(Path("again.png")) == read_provenance(Path(picture))

    def test_takes_the_same_subject_from_another_kind_of_file(self, generate, command, subject):
        assert generate("-o", "new.png")[0] == 0
        Image.open(subject).save("subject.bmp")
        assert command("replay", "new.png", "subject.bmp")[0] == 0
        assert Path("new-again.png").exists()

    def test_another_subject_or_mask_is_refused(self, generate, command):
        assert generate("-o", "new.png")[0] == 0
        Image.new("RGB", (40, 30), "red").save("other.png")
        code, said = command("replay", "new.png", "other.png")
        assert code == 2
        assert "the subject's picture is another one" in said.err
        code, said = command("replay", "new.png", "subject.png", "--mask", "other.png")
        assert code == 2
        assert "made without a mask" in said.err
        assert generate("-o", "masked.png", "--mask", "other.png")[0] == 0
        assert "give it with --mask" in command("replay", "masked.png", "subject.png")[1].err
        assert "the mask is another one" in command("replay", "masked.png", "subject.png", "--mask", "new.png")[1].err
        assert command("replay", "masked.png", "subject.png", "--mask", "other.png")[0] == 0

    def test_a_bounding_mask_and_its_mode_are_remembered(self, generate, command):
        Image.linear_gradient("L").save("mask.png")
        assert generate("-o", "new.png", "--mask", "mask.png", "--mask-mode", "intersect")[0] == 0
        code, said = command("replay", "new.png", "subject.png", "--mask", "mask.png")
        assert code == 0, said.err

    def test_a_model_in_a_folder_has_to_be_given(self, generate, capsys):
        assert generate("-o", "new.png")[0] == 0
        assert main(["replay", "new.png", "subject.png"]) == 2
        assert "made with a model in a folder called 'tiny'; give it with --model" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda told: told | {"dtype": "nonsense"}, "dtype"),
            (lambda told: told | {"threads": 10**9}, "threads"),
            (lambda told: told | {"call": told["call"] | {"seeds": [2**70]}}, "call.seeds"),
            (lambda told: told | {"call": told["call"] | {"index": 1}}, "a seed and a subject_scale for every picture"),
            (lambda told: told | {"call": told["call"] | {"seeds": [8]}}, "must be those of the picture in its call"),
        ],
        ids=["dtype", "threads", "seeds", "index", "other"],
    )
    def test_what_no_run_has_written_is_refused(self, generate, command, change, message):
        from PIL.PngImagePlugin import PngInfo

        assert generate("-o", "new.png")[0] == 0
        texts = PngInfo()
        texts.add_itxt("realcustom", json.dumps(change(json.loads(Image.open("new.png").text["realcustom"]))))
        Image.open("new.png").save("changed.png", pnginfo=texts)
        code, said = command("replay", "changed.png", "subject.png")
        assert code == 2
        assert message in said.err

    @pytest.mark.parametrize("part", ["unet", "scheduler"])
    def test_another_model_is_named(self, generate, tiny, tmp_path, capsys, part):
        assert generate("-o", "new.png")[0] == 0
        pipeline = tiny.pipeline()
        if part == "unet":
            pipeline.unet.conv_in.weight.data.mul_(1.5)
        else:
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, set_alpha_to_one=False)
        pipeline.save_pretrained(tmp_path / "other" / "tiny")
        code = main(["replay", "new.png", "subject.png", "--model", "other/tiny", "--device", "cpu"])
        said = capsys.readouterr()
        assert code == 1
        assert "differs by up to" in said.out
        assert "another weights:" in said.err


class TestSweep:
    def test_every_cell_is_the_picture_of_its_settings(self, generate, command):
        code, said = command(
            "sweep", "subject.png", "a robot on the beach", "--word", "robot", "--seed", "7", "-o", "grid", "--json",
            "--x", "guidance-scale", "2", "9", "--y", "seed", "7", "8", "9",
        )  # fmt: skip
        assert code == 0, said.err
        told = json.loads(said.out)
        assert [(cell["settings"]["guidance_scale"], cell["settings"]["seed"]) for cell in told["cells"]] == [
            (2, 7), (9, 7), (2, 8), (9, 8), (2, 9), (9, 9),
        ]  # fmt: skip
        assert generate("-o", "alone.png", "--guidance-scale", "9")[0] == 0
        assert (pixels("grid/cell-1-2.png") == pixels("alone.png")).all()
        assert command("replay", "grid/cell-3-1.png", "subject.png")[0] == 0
        assert min(pixels(told["grid"]).shape[:2]) > 64

    @pytest.mark.parametrize(
        ("axes", "message"),
        [
            (("--x", "guidance", "2"), "Did you mean 'guidance-scale'"),
            (("--x", "seed"), "there is no value"),
            (("--x", "seed", "one"), "seed: input should be a valid integer"),
            (("--x", "seed", "1", "--y", "seed", "2"), "both axes"),
            (("--x", "scheduler", "dimm"), "Did you mean 'ddim'"),
            (("--x", "mask-scope", "0.2", "7"), "mask_scope must be a share"),
            (("--x", "word", "robot", "cat"), "does not say 'cat'"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_nothing_is_written(self, command, subject, axes, message):
        code, said = command("sweep", "subject.png", "a robot", "--word", "robot", "-o", "grid", *axes)
        assert code == 2
        assert message in said.err
        assert not Path("grid").exists()


LIST = """subject,word,prompt,seed,steps
subject.png,robot,a robot on the beach,7,
subject.png,toy,"a toy, in the snow",,2
"""


class TestBatch:
    def test_makes_every_row_and_a_sheet(self, generate, command):
        Path("list.csv").write_text(LIST)
        code, said = command("batch", "list.csv", "-o", "out", "--json")
        told = json.loads(said.out)
        assert code == 0
        assert told["made"] == 2
        assert [(one["settings"]["seed"], one["settings"]["num_inference_steps"]) for one in told["pictures"]] == [
            (7, 3),
            (2, 2),
        ]
        assert generate("-o", "alone.png")[0] == 0
        assert (pixels("out/0001-a-robot-on-the-beach.png") == pixels("alone.png")).all()
        assert pixels(told["sheet"]).shape[0] > 64

    def test_goes_on_where_it_was_killed(self, command, subject, monkeypatch):
        Path("list.jsonl").write_text(
            "\n".join(
                json.dumps({"subject": "subject.png", "word": "robot", "prompt": f"a {colour} robot"})
                for colour in ("red", "orange", "wooden")
            )
        )
        original, saved = batch.save, []

        def save(picture, path, provenance):
            if len(saved) == 1:
                raise KeyboardInterrupt
            saved.append(path)
            original(picture, path, provenance)

        monkeypatch.setattr(batch, "save", save)
        assert command("batch", "list.jsonl", "-o", "out")[0] == 130
        assert [path.name for path in Path("out").iterdir()] == ["0001-a-red-robot.png"]
        monkeypatch.setattr(batch, "save", original)
        before = Path("out/0001-a-red-robot.png").read_bytes()
        code, said = command("batch", "list.jsonl", "-o", "out", "--json")
        assert code == 0
        assert json.loads(said.out)["made"] == 2
        assert Path("out/0001-a-red-robot.png").read_bytes() == before
        assert len(list(Path("out").iterdir())) == 4

    def test_lists_of_spreadsheets_are_read(self, tmp_path):
        (tmp_path / "list.csv").write_bytes('\ufeffsubject,prompt\r\na.png,"two\nlines"\r\n'.encode())
        assert batch.read_rows(tmp_path / "list.csv") == [{"subject": "a.png", "prompt": "two\nlines"}]
        (tmp_path / "list.jsonl").write_text('{"prompt": "one\u2028line"}\n', "utf-8")
        assert batch.read_rows(tmp_path / "list.jsonl") == [{"prompt": "one\u2028line"}]

    def test_pictures_of_other_settings_are_not_taken_for_its_own(self, command, subject):
        Path("list.yaml").write_text("- {subject: subject.png, word: robot, prompt: a robot}\n")
        assert command("batch", "list.yaml", "-o", "out")[0] == 0
        code, said = command("batch", "list.yaml", "-o", "out", "--steps", "2")
        assert code == 2
        assert "was made with other settings" in said.err

    def test_all_wrong_rows_are_named_before_anything_is_made(self, command, subject):
        rows = [
            {"subject": "absent.png", "word": "robot", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot"},
            {"subject": "subject.png", "word": "cat", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "step": 3},
            {"subject": "subject.png", "prompt": "a robot"},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "height": 33},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "scheduler": 5},
            {"subject": "subject.png", "word": "robot", "prompt": "a robot", "mask-mode": "union"},
        ]
        Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
        code, said = command("batch", "list.jsonl", "-o", "out")
        assert code == 2
        for message in (
            "row 1: there is no picture",
            "row 3: ",
            "row 4: there is no option 'step'",
            "row 5: it has no word",
            "row 6: height must be",
            "row 7: scheduler must be a name",
            "row 8: it has mask-mode, but no mask",
        ):
            assert message in said.err
        assert "row 2" not in said.err
        assert not Path("out").exists()

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("list.txt", "x", "must be a file of .csv, .jsonl, .yaml"), ("list.csv", "", "one row or more"),
            ("list.jsonl", "{", "cannot be read"), ("list.yaml", "a: [", "cannot be read"),
            ("list.yaml", "3", "one row or more"),
        ],
    )  # fmt: skip
    def test_lists_that_cannot_be_read_are_refused(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            batch.read_rows(tmp_path / name)
