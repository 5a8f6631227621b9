"""The command with several subjects, rounds, saved subjects and the best of many, on a tiny model and on the embedded one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from realcustom import SavedSubject
from realcustom.apps.cli import main
from realcustom.provenance import read_provenance

PROMPT = "a dog and a cat on the beach"


@pytest.fixture
def cat(tmp_path):
    drawn = Image.new("RGB", (40, 40), "white")
    ImageDraw.Draw(drawn).rectangle((8, 8, 32, 32), fill="blue")
    drawn.save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def several(command, subject, cat):
    def several(*extra, prompt=PROMPT):
        subjects = ("--subject", "subject.png:dog", "--subject", "cat.png:cat:scale=0.8:end=0.9")
        return command("generate", prompt, *subjects, "--seed", "7", "-o", "both.png", *extra)

    return several


def levels(path):
    return np.asarray(Image.open(path), int)


def test_a_picture_of_several_subjects_says_how_it_was_made_and_is_made_again(several, command, tmp_path):
    code, said = several("--json")
    assert code == 0, said.err
    about = json.loads(said.out)
    assert [one["words"][0]["text"] for one in about["report"]["subjects"]] == ["dog", "cat"]
    made = read_provenance(tmp_path / "both.png")
    assert [(one.word, one.scale, one.end) for one in made.settings.subjects] == [("dog", 1.0, 1.0), ("cat", 0.8, 0.9)]
    assert made.subject is None
    code, said = command("replay", "both.png", "subject.png", "cat.png")
    assert (code, "identical" in said.out) == (0, True), said.err
    for wrong, told in (
        (("subject.png",), "made of 2 pictures of subjects, but 1 were given"),
        (("cat.png", "subject.png"), "picture 1 is another one"),
        (("subject.png", "cat.png", "--mask", "cat.png"), "without a mask"),
    ):
        code, said = command("replay", "both.png", *wrong, "--overwrite")
        assert (code, told in said.err) == (2, True), said.err


def test_masks_boxes_and_further_pictures_are_replayed_too(command, subject, cat, tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    code, said = command(
        "generate", PROMPT, "--subject", "subject.png:dog:mask=mask.png:mask-mode=intersect:box=2,2,30,28",
        "--subject", "cat.png:cat:weight=2", "--subject", "subject.png:cat", "--seed", "1", "-o", "both.png",
    )  # fmt: skip
    assert code == 0, said.err
    made = read_provenance(tmp_path / "both.png")
    assert made.settings.subjects[0].box == (2, 2, 30, 28)
    assert made.settings.subjects[1].weights == [2.0, 1.0]
    assert [len(one.pictures) for one in made.subjects] == [1, 2]
    code, said = command("replay", "both.png", "subject.png", "cat.png", "subject.png", "--mask", "mask.png")
    assert (code, "identical" in said.out) == (0, True), said.err


@pytest.mark.parametrize(
    ("subjects", "told"),
    [
        (("subject.png",), "--subject must be written IMAGE:WORD"),
        (("subject.png:",), "--subject must be written IMAGE:WORD"),
        (("gone.png:dog",), "gone.png"),
        (("subject.png:dog:size=3",), "says 'size', which can be said of no subject"),
        (("subject.png:dog:scale=much",), "scale"),
        (("subject.png:dog:scale=1:scale=2",), "says scale twice"),
        (("subject.png:dog:box=1,2,3",), "box.3: field required"),
        (("subject.png:dog:box=0,0,900,900",), "reaches beyond the picture"),
        (("subject.png:bird",), "does not say 'bird'"),
        (
            ("subject.png:dog", "cat.png:dog:scale=2"),
            "is a further picture of 'dog', of which only its weight can be said",
        ),
        (("subject.png:dog:start=0.9:end=0.1",), "must lie before"),
    ],
)
def test_wrong_subjects_are_told_and_nothing_is_written(command, subject, cat, tmp_path, subjects, told):
    before = sorted(tmp_path.iterdir())
    given = [word for one in subjects for word in ("--subject", one)]
    code, said = command("generate", PROMPT, *given)
    assert (code, told in said.err) == (2, True), said.err
    assert sorted(tmp_path.iterdir()) == before


def test_one_subject_or_several_but_not_both(command, subject, cat):
    code, said = command("generate", "subject.png", PROMPT, "--word", "dog", "--subject", "cat.png:cat")
    assert (code, "SUBJECT and --word cannot be given beside --subject" in said.err) == (2, True)
    code, said = command("generate", PROMPT)
    assert (code, "there is no subject" in said.err) == (2, True)
    code, said = command("generate", "subject.png", PROMPT)
    assert (code, "--word is missing" in said.err) == (2, True)


def test_a_saved_subject_stands_in_for_its_picture_everywhere(command, generate, model, tmp_path, capsys):
    assert generate("-o", "plain.png")[0] == 0
    saved = ("-o", "mine.subject.safetensors", "--word", "robot", "--note", "CC0", "--model", str(model))
    assert main(["subject", "save", "subject.png", *saved]) == 0
    assert SavedSubject.load(tmp_path / "mine.subject.safetensors").note == "CC0"
    assert main(["subject", "save", "subject.png", *saved]) == 2
    assert "exists" in capsys.readouterr().err
    code, said = command(
        "generate", "mine.subject.safetensors", "a robot on the beach", "--seed", "7", "-o", "saved.png"
    )
    assert code == 0, said.err
    assert np.array_equal(levels(tmp_path / "plain.png"), levels(tmp_path / "saved.png"))
    assert command("replay", "saved.png", "mine.subject.safetensors")[0] == 0
    code, said = command("replay", "saved.png", "subject.png", "--overwrite")
    assert (code, "is another one" in said.err) == (2, True)
    code, said = command(
        "generate", "a robot in the snow", "--subject", "mine.subject.safetensors:scale=0.5", "-o", "one.png"
    )
    assert code == 0, said.err
    code, said = command(
        "sweep", "mine.subject.safetensors", "a robot", "--word", "robot", "-o", "grid", "--x", "steps", "1", "2"
    )
    assert code == 0, said.err
    (tmp_path / "list.csv").write_text("subject,word,prompt\nmine.subject.safetensors,robot,a robot\n")
    code, said = command("batch", "list.csv", "-o", "made")
    assert code == 0, said.err


@pytest.mark.parametrize("words", [("dog", "dog"), ("dog:occurrence=1", "dog:occurrence=2")])
def test_no_picture_of_a_subject_is_overwritten(command, subject, cat, words):
    first, second = (path.read_bytes() for path in (subject, cat))
    for output in ("subject.png", "cat.png"):
        given = ("--subject", f"subject.png:{words[0]}", "--subject", f"cat.png:{words[1]}")
        code, said = command("generate", "a dog and a dog", *given, "-o", output, "--overwrite")
        assert code != 0
        assert "is the picture of 'dog' itself" in said.err
    assert (subject.read_bytes(), cat.read_bytes()) == (first, second)


def test_options_may_stand_between_subject_and_prompt(command, subject):
    code, said = command(
        "generate", "subject.png", "--word", "dog", "a dog on the beach", "--seed", "3", "-o", "made.png"
    )
    assert code == 0, said
    assert (subject.parent / "made.png").exists()


def test_each_subject_has_its_masks_and_acts_nowhere_else_when_they_are_given_back(command, subject, cat, tmp_path):
    given = [f"{name}.png:{word}" for name, word in (("subject", "dog"), ("cat", "cat"))]
    spoken = ["generate", PROMPT, "--steps", "2", "--save-masks", "--json"]
    code, said = command(*spoken, "--subject", given[0], "--subject", given[1], "-o", "made.png")
    assert code == 0, said.err
    (told,) = json.loads(said.out)["pictures"]
    assert told["subject_2_mask"] == "made-subject-2-mask.png"
    assert told["subject_1_mask_steps"] == [f"made-subject-1-mask-step-0{number}.png" for number in (1, 2)]
    masks = [f"made-subject-{number}-mask.png" for number in (1, 2)]
    assert not (levels(tmp_path / masks[0]) == levels(tmp_path / masks[1])).all()
    assert not list(tmp_path.glob("made-mask*"))
    back = [part for one, mask in zip(given, masks, strict=True) for part in ("--subject", f"{one}:mask={mask}")]
    code, said = command(*spoken, *back, "-o", "again.png")
    assert code == 0, said.err
    for number, mask in enumerate(masks, start=1):
        acted = levels(tmp_path / f"again-subject-{number}-mask.png")
        assert acted.any()
        assert (acted <= levels(tmp_path / mask)).all()
    code, said = command(*spoken, "--subject", given[0], "--subject", given[1], "-o", "made.png")
    assert (code, "exists" in said.err) == (2, True)


def test_what_is_said_of_words_masks_has_to_have_an_effect(command, subject, cat, tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    given = (
        "--subject",
        "subject.png:dog:mask=mask.png",
        "--subject",
        "cat.png:cat:mask=mask.png",
        "--mask-scope",
        "0.1",
    )
    code, said = command("generate", PROMPT, *given, "-o", "made.png")
    assert (code, "--mask-scope would have no effect" in said.err) == (2, True)
    code, said = command("generate", PROMPT, *given[:3], f"{given[3]}:mask-mode=union", *given[4:], "-o", "made.png")
    assert code == 0, said.err


def test_what_guidance_or_the_adapter_does_not_read_is_refused(tiny, command, subject, tmp_path, capsys):
    arguments = ("generate", "subject.png", "a dog", "--word", "dog", "-o", "made.png")
    code, said = command(*arguments, "--guidance", "direct", "--subject-guidance-scale", "3")
    assert code == 2
    assert "--subject-guidance-scale would have no effect, because guidance is direct; leave it out" in said.err
    unet = tiny.unet()
    tiny.pipeline(unet=unet, adapter=tiny.adapter(unet, scoring_dim=0)).save_pretrained(tmp_path / "unscored")
    there = ["--model", str(tmp_path / "unscored"), "--device", "cpu"]
    assert main([*arguments, *there, "--token-ratio", "0.5", "--subject-guidance-scale", "3"]) == 2
    told = capsys.readouterr().err
    assert "--token-ratio would have no effect, because the adapter scores no tokens" in told
    assert "--subject-guidance-scale would have no effect, because guidance is direct" in told  # as the model has it
    assert not (tmp_path / "made.png").exists()
    assert main([*arguments, *there, "--guidance", "cascade", "--subject-guidance-scale", "3"]) == 0


def test_what_a_later_round_reads_has_an_effect(command, subject, tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    masked = ("subject.png", "a dog", "--word", "dog", "--mask", "mask.png", "--mask-scope", "0.3", "-o", "made.png")
    assert command("generate", *masked)[0] == 2
    code, said = command("generate", *masked, "--then", "a dog on the beach")
    assert code == 0, said.err


@pytest.mark.parametrize("count", ["0", "-3", "1000"])
def test_best_of_takes_a_number_of_pictures(command, subject, count):
    code, said = command("generate", "subject.png", "a dog", "--word", "dog", "--best-of", count)
    assert code != 0
    assert "--best-of must be from 1 to 256" in said.err


class TestRounds:
    def test_the_result_of_one_round_is_the_subject_of_the_next(self, generate, command, tmp_path):
        code, said = generate("--then", "a robot in the snow", "--then", "a red toy", "toy", "-o", "last.png")
        assert code == 0, said.err
        assert sorted(one.name for one in tmp_path.glob("last*")) == [
            "last-round-1.png",
            "last-round-2.png",
            "last.png",
        ]
        first, second, last = (read_provenance(tmp_path / f"last{kind}.png") for kind in ("-round-1", "-round-2", ""))
        assert (first.settings.subject_word, second.settings.words, last.settings.words) == (
            "robot",
            ["robot"],
            ["toy"],
        )
        assert second.settings.prompt == "a robot in the snow"
        code, said = command("replay", "last.png", "last-round-2.png")
        assert (code, "identical" in said.out) == (0, True), said.err
        left, top, right, bottom = last.settings.subjects[0].box
        assert 0 <= left < right <= 32
        assert right - left == bottom - top

    def test_a_small_mask_still_gives_the_next_round_a_subject(self, generate, tmp_path):
        mask = Image.new("L", (16, 16))
        mask.putpixel((8, 8), 255)
        mask.save(tmp_path / "dot.png")
        code, said = generate("--mask", "dot.png", "--then", "a robot at night", "-o", "last.png")
        assert code == 0, said.err
        left, top, right, bottom = read_provenance(tmp_path / "last.png").settings.subjects[0].box
        assert (right - left, bottom - top) == (8, 8)

    def test_the_word_is_that_of_the_one_subject_and_every_file_is_told(self, command, subject, tmp_path):
        said = command(
            "generate", PROMPT, "--subject", "subject.png:dog", "--then", "a dog at night", "-o", "last.png", "--json"
        )[1]
        (told,) = json.loads(said.out)["pictures"]
        assert told["image"] == "last.png"
        assert [one["image"] for one in told["rounds"]] == ["last-round-1.png"]
        assert all((tmp_path / name).exists() for name in ("last.png", "last-round-1.png"))

    def test_no_mask_of_an_earlier_round_is_overwritten_unasked(self, generate, tmp_path):
        (tmp_path / "last-round-1-mask.png").write_bytes(b"mine")
        code, said = generate("--then", "a robot in the snow", "--save-masks", "-o", "last.png")
        assert (code, "last-round-1-mask.png exists" in said.err) == (2, True), said.err
        assert (tmp_path / "last-round-1-mask.png").read_bytes() == b"mine"

    def test_what_cannot_be_said_with_it_is_refused(self, generate):
        for extra, told in (
            (("--then", "a robot", "robot", "more"), "--then takes a prompt, and the word in it"),
            (("--then", "a toy"), "does not say 'robot'"),
            (("--then", "a robot", "--twin"), "--then and --twin cannot be given together"),
            (("--then", "a robot", "--best-of", "3"), "--then and --best-of cannot be given together"),
            (("--best-of", "3", "--twin"), "leave --num-images and --twin out"),
            (("--best-of", "3"), "know the drawings of the embedded model alone"),
        ):
            code, said = generate(*extra)
            assert (code, told in said.err) == (2, True), said.err


def test_the_best_of_some_by_the_judges(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["generate", "subject.png", "a robot on the beach", "--word", "robot", "--best-of", "3", "--steps", "2",
                 "--seed", "1", "-o", "best.png", "--json", "--device", "cpu"])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    kept = json.loads(said.out)["pictures"]
    assert 1 <= len(kept) <= 3
    assert [one["image"] for one in kept] == [f"best-{number + 1}.png" for number in range(len(kept))]
    assert sorted(one.name for one in tmp_path.glob("best*")) == sorted(one["image"] for one in kept)
    assert all(-1 <= one["identity"] <= 1 and 0 <= one["control"] <= 1 for one in kept)
    assert [one["identity"] for one in kept] == sorted((one["identity"] for one in kept), reverse=True)


def test_masks_that_a_run_does_not_write_are_never_deleted(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = [tmp_path / f"best-{number}-{kind}.png" for number in (1, 2, 3) for kind in ("mask", "mask-step-01")]
    for path in mine:
        path.write_bytes(b"mine")
    assert main(["generate", "subject.png", "a robot on the beach", "--word", "robot", "--best-of", "3", "--steps", "2",
                 "--seed", "1", "-o", "best.png", "--overwrite", "--device", "cpu"]) == 0  # fmt: skip
    capsys.readouterr()
    assert all(path.read_bytes() == b"mine" for path in mine)


def test_likeness_is_that_of_the_part_of_a_picture_that_is_the_subject(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    both = Image.new("RGB", (80, 40), "blue")
    both.paste(Image.open(subject).convert("RGB").resize((40, 40)), (0, 0))
    both.save("both.png")
    both.crop((0, 0, 40, 40)).save("left.png")
    merits = []
    for given in ("both.png:robot:box=0,0,40,40", "left.png:robot"):
        main(["generate", "a robot on the beach", "--subject", given, "--best-of", "1", "--steps", "2", "--seed", "1",
              "-o", "best.png", "--json", "--device", "cpu", "--overwrite"])  # fmt: skip
        merits.append(json.loads(capsys.readouterr().out)["pictures"][0]["identity"])
    assert merits[0] == pytest.approx(merits[1], abs=1e-5)


def test_shortcuts_are_options_and_belong_to_the_picture(generate, command, tmp_path):
    fast = ("--guidance", "direct", "--mask-source", "generation", "--guidance-end", "0.6", "--cache-interval", "2")
    code, said = generate(*fast, "--mask-frozen-after", "2", "-o", "fast.png")
    assert code == 0, said.err
    made = read_provenance(tmp_path / "fast.png").settings
    assert (made.guidance, made.mask_source, made.guidance_end, made.cache_interval) == ("direct", "generation", 0.6, 2)
    assert command("replay", "fast.png", "subject.png")[0] == 0
    code, said = generate("--mask-source", "encoder")
    assert (code, "--mask-source is 'encoder', which does without" in said.err) == (2, True), said.err
