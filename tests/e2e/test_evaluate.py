"""`realcustom evaluate` on photographs, as a user types it, with what can be wrong before any picture is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from realcustom.apps.cli import main
from realcustom.evaluation.lpips import Lpips


@pytest.fixture
def evaluate(command, subject):
    """Evaluate a tiny model on a benchmark of one's own, of one sentence."""
    line = {"subject": "toy", "word": "robot", "pictures": ["subject.png"], "prompts": ["a robot on the beach"]}
    Path("benchmark.jsonl").write_text(json.dumps(line))

    def evaluate(*extra):
        return command("evaluate", "--benchmark", ".", "-o", "out", "--seeds", "1", "--steps", "2", *extra)

    return evaluate


def test_without_encoders_it_is_said_first_what_is_not_measured(evaluate):
    code, said = evaluate()
    assert code == 0, said.err
    assert "not measured: openai/clip-vit-base-patch32 is not in the hub's cache" in said.err.partition("subject: ")[0]
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "grid.png", "manifest.jsonl", "report.html", "report.json", "run.json", "subject", "text",
    ]  # fmt: skip
    assert json.loads(Path("out/report.json").read_text())["rows"]["subject"] == {"pictures": 1}
    code, said = evaluate("--dtype", "bfloat16")
    assert (code, "made with another dtype" in said.err) == (2, True)
    assert evaluate("--dtype", "bfloat16", "-o", "half")[0] == 0
    assert json.loads(Path("half/run.json").read_text())["dtype"] == "bfloat16"
    Path("out/run.json").write_text('{"model": "')
    code, said = evaluate()
    assert (code, "run.json" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--clip", "runs/clpi"), "called 'runs/clpi'"),
        (("--lpips", "runs/lpisp"), "runs/lpisp is no folder; realcustom convert --as lpips makes one"),
        (
            ("--guidance", "direct", "--subject-guidance-scale", "2"),
            "--subject-guidance-scale would have no effect, because guidance is direct",
        ),
        (
            ("--method", "image-prompt", "--mask-scope", "0.5", "--mask-yields"),
            "--mask-scope, --mask-yields would have no effect beside --method image-prompt",
        ),
        (
            ("--final-mask-scope", "0.2", "--steps", "15", "--mask-frozen-after", "8"),
            "--final-mask-scope would have no effect, because no mask is found in the second half",
        ),
        (
            ("--final-mask-scope", "0.2", "--steps", "4", "--scheduler", "heun", "--mask-frozen-after", "3"),
            "--final-mask-scope would have no effect, because no mask is found in the second half",
        ),
        (("--mask-frozen-after", "3"), "--mask-frozen-after would have no effect, because the run has 2 evaluations"),
        (
            ("--guidance-scale", "2", "--guidance-start", ".5", "--guidance-end", ".5"),
            "--guidance-scale would have no effect, because no step lies between guidance start and end",
        ),
        (("--scheduler", "ddim", "--steps", "2000"), "DDIMScheduler cannot take"),
        (("--pictures", "theirs", "--adapter", "x"), "--adapter, --steps would have no effect beside --pictures"),
        (("--output", "subject.png"), "--output must be a folder, but subject.png is none"),
        (("--pictures", "nowhere"), "there is no folder nowhere for --pictures"),
        (("--mask-frozen-after", "0"), "--mask-frozen-after must be 'never' or a whole number of at least 1, but is 0"),
        (("--batch-size", "0"), "--batch-size must be at least 1, but is 0"),
        (("--seeds", "-1"), "--seeds must be at least 1, but is -1"),
        (("--split", "test", "--subset"), "--split, --subset can be used with stickers only"),
        (("--benchmark", "stickers", "--clip", "x"), "--clip can be used with benchmarks of photographs only"),
        (("--only", "1"), "--photographs, --only and --prompts are for dreambench"),
        (("--subjects", "1"), "--subjects can be used with stickers only"),
        (("--benchmark", "stickers", "--only", "cat"), "--only can be used with benchmarks of photographs only"),
        (("--benchmark", "stickers", "--subjects", "0"), "--subjects must be at least 1, but is 0"),
        (("--benchmark", "dreambench"), "DreamBench needs its photographs: --photographs FOLDER"),
        (("--method", "dreambooht"), "but dreambooht is no file"),
        (
            ("--method", "recipe.yaml", "--mask-scope", ".5"),
            "--mask-scope would have no effect beside a recipe of tuning",
        ),
        (("--method", "recipe.yaml", "--dtype", "float16"), "--dtype would have no effect beside a recipe of tuning"),
        (("--method", "recipe.yaml", "--ray", "local"), "--ray would have no effect beside a recipe of tuning"),
        (("--set", "training.seed=1"), "--set would have no effect beside --method realcustom, which is no recipe"),
        (("--method", "recipe.yaml", "--set", "training.seed"), "an override is written section.name=value"),
        (("--ray", "local", "--batch-size", "4"), "--batch-size would have no effect beside --ray"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_picture_is_made(evaluate, options, message):
    Path("recipe.yaml").write_text("phrase: new word")
    Path("theirs").mkdir()
    code, said = evaluate(*options)
    assert code == 2
    assert message in said.err
    assert not Path("out").exists()


def test_a_recipe_of_tuning_is_refused_where_two_subjects_are_shown(evaluate, subject):
    for name, number in (("dog", 2), ("dog2", 2)):
        folder = Path("photographs") / name
        folder.mkdir(parents=True)
        shutil.copy(subject, folder / f"{number:02d}.png")
    Path("recipe.yaml").write_text("phrase: new word")
    code, said = evaluate(
        "--benchmark", "dreambench-pairs", "--photographs", "photographs", "--only", "dog+dog2", "--method", "recipe.yaml"
    )  # fmt: skip
    assert (code, "a recipe of tuning learns one subject" in said.err) == (2, True)


def test_every_subject_of_a_sentence_must_be_said_before_any_picture_is_made(evaluate):
    line = json.loads(Path("benchmark.jsonl").read_text())
    lines = [{**line, "subject": name, "word": word} for name, word in (("one", "unicorn"), ("two", line["word"]))]
    Path("benchmark.jsonl").write_text("\n".join(json.dumps(one) for one in lines))
    code, said = evaluate()
    assert (code, "does not say 'unicorn'" in said.err) == (2, True)
    assert not Path("out").exists()


def test_a_folder_of_an_image_prompt_says_what_it_was_made_with(evaluate):
    code, _ = evaluate("--method", "image-prompt")
    told = json.loads(Path("out/run.json").read_text())
    assert (code, told["method"]) == (0, "image-prompt")
    assert (told["mask_scope"], told["final_mask_scope"], told["token_ratio"]) == (1.0, 1.0, 1.0)
    code, said = evaluate("--method", "image-prompt", "--token-ratio", "0.5")
    assert (code, "made with another token_ratio" in said.err) == (2, True)


def test_pictures_that_are_given_are_measured_on_a_device(evaluate, capsys):
    Path("theirs/toy").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save("theirs/toy/00-0.png")
    Lpips((4, 4, 4, 4, 4)).save_pretrained("lpips")
    measured = ["evaluate", "--lpips", "lpips", "--benchmark", ".", "--seeds", "1", "--pictures", "theirs", "-o", "out"]
    assert main([*measured, "--device", "abacus"]) == 2
    assert "the device 'abacus' cannot be used" in capsys.readouterr().err
    assert main([*measured, "--device", "cpu"]) == 0
