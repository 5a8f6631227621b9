"""Pictures that say how they were made: made again, in grids, from lists, beside their twins."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from realcustom.apps.cli import main
from realcustom.provenance import read_provenance


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def retold(picture: str, change) -> str:
    """Change what a picture says of how it was made, as anybody can; return the new picture's name."""
    texts = PngInfo()
    texts.add_itxt("realcustom", json.dumps(change(json.loads(Image.open(picture).text["realcustom"]))))
    Image.open(picture).save("changed.png", pnginfo=texts)
    return "changed.png"


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

    @pytest.mark.parametrize(
        ("unused", "reason"),
        [
            (
                ("--guidance-scale", "1", "--negative-prompt", "a dog"),
                "--negative-prompt would have no effect, because",
            ),
            (
                ("--guidance-end", "0", "--guidance-scale", "3"),
                "--guidance-scale would have no effect, because no step lies between guidance start and end",
            ),
            (
                ("--steps", "2", "--mask-frozen-after", "2"),
                "--mask-frozen-after would have no effect, because the run has 2",
            ),
        ],
    )
    def test_what_is_never_reached_or_has_no_weight_is_refused(self, generate, unused, reason):
        code, said = generate("-o", "new.png", *unused)
        assert (code, Path("new.png").exists()) == (2, False)
        assert reason in said.err

    @pytest.mark.parametrize(
        "unused",
        [
            ("--mask-scope", "0.2"),
            ("--final-mask-scope", "0.1"),
            ("--mask-binary",),
            ("--no-mask-binary",),
            ("--mask-yields",),
            ("--mask-frozen-after", "2"),
        ],
    )
    def test_what_a_mask_that_replaces_the_words_makes_useless_is_refused(self, generate, unused):
        Image.linear_gradient("L").save("mask.png")
        code, said = generate("-o", "new.png", "--mask", "mask.png", *unused)
        assert code == 2
        assert f"{unused[0].replace('no-', '')} would have no effect" in said.err
        assert not Path("new.png").exists()
        assert generate("-o", "new.png", "--mask", "mask.png", "--mask-mode", "union", *unused)[0] == 0

    @pytest.mark.parametrize(
        ("subject", "mask", "extra"),
        [
            ("new.png", "mask.png", []),
            ("subject.png", "new.png", []),
            ("new-twin.png", "mask.png", ["--twin"]),
            ("new-side-by-side.png", "mask.png", ["--twin"]),
            ("subject.png", "new-mask-strip.png", ["--save-masks"]),
            ("subject.png", "new-mask-step-09.png", ["--save-masks"]),
        ],
    )
    def test_neither_subject_nor_mask_is_ever_overwritten(self, command, tiny, subject, mask, extra):
        tiny.subject().save(subject)
        Image.linear_gradient("L").save(mask)
        before = Path(subject).read_bytes(), Path(mask).read_bytes()
        arguments = (subject, "a robot", "--word", "robot", "--mask", mask, "-o", "new.png", "--overwrite")
        code, said = command("generate", *arguments, *extra)
        assert code == 2
        assert "itself, which is never overwritten; choose another name" in said.err
        assert (Path(subject).read_bytes(), Path(mask).read_bytes()) == before

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

    def test_in_a_picture_of_an_older_version_masks_were_neither_narrowed_nor_yielded(self, generate):
        younger = {"final_mask_scope", "mask_yields"}

        def forget(told):
            return told | {"settings": {key: one for key, one in told["settings"].items() if key not in younger}}

        assert generate("-o", "new.png", "--final-mask-scope", "0.1", "--mask-yields")[0] == 0
        settings = read_provenance(Path("new.png")).settings
        assert (settings.final_mask_scope, settings.mask_yields) == (0.1, True)
        settings = read_provenance(Path(retold("new.png", forget))).settings
        assert (settings.final_mask_scope, settings.mask_yields) == (1.0, False)

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
            (
                lambda told: told | {"settings": told["settings"] | {"subjects": [{"word": "robot", "scal": 1}]}},
                "settings.subjects.0.scal is no option. Did you mean 'scale'?",
            ),
        ],
        ids=["dtype", "threads", "seeds", "index", "other", "inside a list"],
    )
    def test_what_no_run_has_written_is_refused(self, generate, command, change, message):
        assert generate("-o", "new.png")[0] == 0
        code, said = command("replay", retold("new.png", change), "subject.png")
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

    @pytest.mark.parametrize("output", ["new.png", "subject.png", "mask.png", "there/../new.png", "link.png"])
    def test_no_ingredient_is_ever_overwritten(self, generate, command, output):
        Image.linear_gradient("L").save("mask.png")
        assert generate("-o", "new.png", "--mask", "mask.png")[0] == 0
        Path("there").mkdir()
        Path("link.png").symlink_to("subject.png")
        before = {name: Path(name).read_bytes() for name in ("new.png", "subject.png", "mask.png")}
        code, said = command("replay", "new.png", "subject.png", "--mask", "mask.png", "-o", output, "--overwrite")
        assert code == 2
        assert "itself, which is never overwritten" in said.err
        assert {name: Path(name).read_bytes() for name in before} == before

    def test_another_size_of_the_picture_is_said(self, generate, command):
        assert generate("-o", "new.png")[0] == 0
        picture, texts = Image.open("new.png"), PngInfo()
        texts.add_itxt("realcustom", picture.text["realcustom"])
        picture.crop((0, 0, 20, 32)).save("cropped.png", pnginfo=texts)
        code, said = command("replay", "cropped.png", "subject.png")
        assert code == 1
        assert "has 32 x 32 pixels, where PICTURE, which was changed since, has 20 x 32" in said.err
        assert "255 levels" not in said.err + said.out

    @pytest.mark.parametrize(
        ("kind", "name"),
        [("embedded", "pebbles"), ("embedded", "tiny"), ("hub", "here/tiny"), ("hub", "/etc"), ("hub", "stickers")],
    )
    def test_a_model_that_cannot_be_what_the_picture_says_has_to_be_given(self, generate, capsys, kind, name):
        assert generate("-o", "new.png")[0] == 0
        Path("here/tiny").mkdir(parents=True)
        changed = retold("new.png", lambda told: told | {"model": name, "model_kind": kind})
        capsys.readouterr()
        assert main(["replay", changed, "subject.png"]) == 2
        assert f"of which there is no {kind} one here; give it with --model" in capsys.readouterr().err

    @pytest.fixture
    def reached(self, monkeypatch):
        """Whom somebody wants to reach over a network that can be used but answers nobody."""
        asked = []

        def refuse(*address, **_):
            asked.append(address)
            raise LookupError("nobody answers")  # after which nobody waits and tries again

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        return asked

    def test_what_a_picture_names_is_never_fetched(self, generate, command, capsys, reached):
        assert generate("-o", "new.png")[0] == 0
        code, said = command("replay", retold("new.png", lambda told: told | {"adapter": "nobody/x"}), "subject.png")
        assert (code, "called 'nobody/x'" in said.err) == (2, True)
        of_hub = retold("new.png", lambda told: told | {"model": "nobody/y", "model_kind": "hub"})
        assert main(["replay", of_hub, "subject.png", "--adapter", "."]) == 2
        assert "called 'nobody/y'" in capsys.readouterr().err
        assert reached == []

    def test_what_is_named_beside_it_is_fetched(self, generate, capsys, reached):
        assert generate("-o", "new.png")[0] == 0
        of_ours = retold("new.png", lambda told: told | {"model": "stickers", "model_kind": "embedded"})
        assert main(["replay", of_ours, "subject.png", "--adapter", "somebody/x"]) == 2
        assert "called 'somebody/x'" in capsys.readouterr().err
        assert reached


class TestSweep:
    def test_every_cell_is_the_picture_of_its_settings(self, generate, command):
        code, said = command(
            "sweep", "subject.png", "a robot on the beach", "--word", "robot", "-o", "grid", "--json",
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
            (("--x", "guidance-scal", "2"), "Did you mean 'guidance-scale'"),
            (("--x", "seed"), "there is no value"),
            (("--x", "seed", "one"), "--seed: input should be a valid integer"),
            (("--x", "seed", "1", "--y", "seed", "2"), "both axes"),
            (("--x", "scheduler", "dimm"), "Did you mean 'ddim'"),
            (("--x", "mask-scope", "0.2", "7"), "--mask-scope must be a share"),
            (("--x", "word", "robot", "cat"), "does not say 'cat'"),
            (("--x", "subject-scale", "1", "nan"), "--subject-scale must be a number"),
            (("--x", "steps", "4", "1", "--scheduler", "pndm"), "PNDMScheduler cannot take --steps 1"),
            (("--x", "--mask-scope", "0.1"), "its name without dashes"),
            (("--x", "seed", "1", "2", "--seed", "3"), "--seed was given, but the axis seed says it, too"),
            (("--x", "steps", "1", "--y", "mask_scope", "0.2", "--mask-scope", "0.3"), "--mask-scope was given, but"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_nothing_is_written(self, command, subject, axes, message):
        code, said = command("sweep", "subject.png", "a robot", "--word", "robot", "-o", "grid", *axes)
        assert code == 2
        assert message in said.err
        assert not Path("grid").exists()

    def test_what_no_cell_reads_is_refused(self, command, subject):
        shared = ("sweep", "subject.png", "a robot", "--word", "robot", "-o", "grid", "--subject-guidance-scale", "2")
        code, said = command(*shared, "--guidance", "direct", "--x", "steps", "1", "2")
        assert (code, Path("grid").exists()) == (2, False)
        assert "--subject-guidance-scale would have no effect, because guidance is direct" in said.err
        assert command(*shared, "--x", "guidance", "cascade", "direct")[0] == 0

    @pytest.mark.parametrize("axis", ["--x", "--y"])
    def test_an_axis_that_is_given_twice_is_refused(self, command, capsys, axis):
        with pytest.raises(SystemExit, match="2"):
            command(
                "sweep", "a.png", "a robot", "--word", "robot", "-o", "grid", *[axis, "seed", "1", axis, "steps", "2"]
            )
        assert f"{axis} was given twice" in capsys.readouterr().err

    def test_negative_numbers_are_values_of_an_axis(self, command, subject):
        code, said = command(
            "sweep", "subject.png", "a robot", "--word", "robot", "-o", "grid", "--json", "--x", "guidance-scale", "-1e-1", "2"
        )  # fmt: skip
        assert code == 0, said.err
        assert [cell["settings"]["guidance_scale"] for cell in json.loads(said.out)["cells"]] == [-0.1, 2]

    def test_what_an_axis_replaces_is_not_looked_at(self, command, subject):
        axes = ("--x", "prompt", "a red dog", "a dog", "--y", "word", "dog")
        code, said = command("sweep", "subject.png", "nothing", "--word", "robot", "-o", "grid", "--json", *axes)
        assert code == 0, said.err
        told = [cell["settings"] for cell in json.loads(said.out)["cells"]]
        assert [(one["prompt"], one["subject_word"]) for one in told] == [("a red dog", "dog"), ("a dog", "dog")]
        assert len({one["seed"] for one in told}) == 1

    def test_the_cells_of_a_larger_grid_are_removed_only_when_asked(self, command, subject):
        def sweep(*values, extra=()):
            arguments = ("subject.png", "a robot", "--word", "robot", "-o", "grid", "--x", "steps", *values)
            return command("sweep", *arguments, *extra)

        assert sweep("1", "2")[0] == 0
        for name in ("grid.png", "cell-1-1.png"):
            Path("grid", name).unlink()
        code, said = sweep("1")
        assert code == 2
        assert "cell-1-2.png exists" in said.err
        assert sweep("1", extra=["--overwrite"])[0] == 0
        assert sorted(path.name for path in Path("grid").iterdir()) == ["cell-1-1.png", "grid.png"]

    def test_the_subject_is_never_overwritten(self, command, tiny):
        Path("grid").mkdir()
        tiny.subject().save("grid/cell-1-2.png")
        before = Path("grid/cell-1-2.png").read_bytes()
        arguments = ("grid/cell-1-2.png", "a robot", "--word", "robot", "-o", "grid", "--overwrite", "--x", "seed", "1")
        code, said = command("sweep", *arguments)
        assert code == 2
        assert "is the subject's picture itself" in said.err
        assert Path("grid/cell-1-2.png").read_bytes() == before
