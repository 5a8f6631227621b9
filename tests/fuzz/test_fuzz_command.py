"""Whatever is typed: pictures or one line of complaint, nothing half-written, nothing that was there changed."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from realcustom.apps.cli import main

KEPT = b"somebody's own"


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A folder with a model, a subject and a file that nobody may touch; the command runs in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    tiny.pipeline().save_pretrained(folder / "model")
    tiny.subject().save(folder / "subject.png")
    (folder / "kept.png").write_bytes(KEPT)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def run(folder, *arguments):
    """Run the command, check its manners, and remove the pictures that it wrote.

    Returns:
        Its exit code, how many pictures it wrote, and what it said on standard error.
    """
    before = contents(folder)
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = main(arguments)
        except SystemExit as refused:  # by argparse
            code = refused.code
    said = {}
    for name, stream in (("out", out), ("error", error)):
        stream.flush()
        said[name] = stream.buffer.getvalue().decode("utf-8")
    after = contents(folder)
    new = sorted(after.keys() - before.keys())
    for name in new:
        with Image.open(folder / name) as picture:  # whole, whatever happened
            picture.load()
        (folder / name).unlink()
    assert {name: after[name] for name in before} == before
    assert code in (0, 2), said
    if code == 2:
        assert new == []
        assert said["out"] == ""
        *usage, line = said["error"].removesuffix("\n").split("\n")
        assert line.startswith("realcustom"), said["error"]
        assert not usage or usage[0].startswith("usage: realcustom"), said["error"]
    return code, len(new), said["error"]


def generate(folder, *options, prompt="a robot on the beach", word="robot", picture="subject.png"):
    usual = ("--word", word, "--model", "model", "--device", "cpu", "--steps", "1")
    return run(folder, "generate", picture, prompt, *usual, *options)


CHARACTERS = st.characters(exclude_categories=[])  # lone surrogates, too
ODD = st.sampled_from([
    "", " ", "\n", "\0", "robot\0", "\x1b[31mrobot", "ro\u00adbot", "\u202erobot", "\ufeffrobot", "robot\u0301",
    "\U0001f916", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ud800", "r\udc80bot", "--", "-robot", "@robot", "%s %d {}",
    "[MASK]", "[UNK]", "robot" * 400, "robot " * 300, "\u0130stanbul", "STRASSE stra\u00dfe", "(robot", "robot)", "a[", "\\",
    ".*", "robot's", "ice  cream",
])  # fmt: skip
TEXTS = ODD | st.text(CHARACTERS, max_size=30) | st.lists(ODD, max_size=5).map(" ".join)


@st.composite
def prompts_and_words(draw):
    """A prompt and a word that it may or may not say."""
    word = draw(TEXTS | st.just("robot"))
    said = draw(st.sampled_from(["a {} on the beach", "{}", "{} and {}", "a dog", "a\t{}\n.", "a {}s", "x{}x"]))
    return said.replace("{}", word) if draw(st.booleans()) else draw(TEXTS), word


@given(prompts_and_words(), st.none() | TEXTS)
@example(("a robot", "robot"), None)
@example(("a \0robot", "\0robot"), "\0")
@settings(max_examples=25)
def test_any_prompt_and_word(folder, prompt_and_word, negative):
    prompt, word = prompt_and_word
    negatives = [] if negative is None else [f"--negative-prompt={negative}"]
    generate(folder, *negatives, prompt=prompt, word=word)


@given(TEXTS, st.booleans())
@settings(max_examples=30)
def test_any_prompt_is_taken_apart(folder, prompt, as_json):
    run(folder, "words", prompt, "--model", "model", *["--json"] * as_json)


WHOLE = st.integers(-3, 3).map(str) | st.sampled_from(
    ["", "1.5", "1e3", "0x10", "\u0663", "9" * 30, "-" + "9" * 30, "nan", "many"]
)
REAL = (
    st.floats().map(str)
    | st.floats(-2, 20).map(str)
    | st.sampled_from(["", "1,5", "1e400", "-0", "nan", "\u0663", "much"])
)
SIDES = st.integers(-8, 64).map(str) | st.sampled_from(["0", "4", "32", "33", "3.2", "9" * 30, "wide"])
COUNTS = st.integers(-1, 2).map(str) | st.sampled_from(["", "two", "1.0", "9" * 30])
NAMES = st.sampled_from([
    "new.png", "NEW.PNG", "kept.png", "model", "model/new.png", "absent/new.png", ".png", ".", "", "new",
    "new.jpg", "kept.png/new.png", "x" * 300 + ".png", "a\0b.png", "\ud800.png", "a\nb.png", " .png", "-.png",
    "\U0001f916.png", "./model/../new.png",
]) | st.text(CHARACTERS, max_size=8).map(lambda text: text.replace("/", "") + ".png")  # fmt: skip
VALUES = {
    "--occurrence": WHOLE, "--seed": WHOLE | st.integers(-(2**65), 2**65).map(str), "--num-images": COUNTS, "--steps": COUNTS,
    "--guidance-scale": REAL, "--subject-guidance-scale": REAL, "--subject-scale": REAL, "--mask-scope": REAL,
    "--final-mask-scope": REAL,
    "--token-ratio": REAL, "--width": SIDES, "--height": SIDES, "--output": NAMES,
    "--mask": NAMES | st.just("subject.png"), "--mask-mode": st.sampled_from(["replace", "intersect", "union", "", "add"]),
    "--scheduler": st.sampled_from([
        "ddim", "ddpm", "dpm++", "dpm++-single", "euler", "euler-a", "heun", "unipc", "EULER", "LCMScheduler",
        "DDIMInverseScheduler", "FlowMatchEulerDiscreteScheduler", "UNet2DModel", "SchedulerMixin", "__name__", "", "utils",
    ]),
    "--device": st.sampled_from(["cpu", "cpu:0", "cpu:7", "cuda:99", "", "gpu", "\0", "xla", "cpu "]),
    "--dtype": st.sampled_from(["float32", "bfloat16", "float64", ""]),
    "--model": st.sampled_from(["model", "model/unet", "subject.png", "", ".", "a\0b", "-", "//", "a/b/c"]),
}  # fmt: skip
SWITCHES = st.lists(
    st.sampled_from(["--save-masks", "--json", "--twin", "--no-metadata", "--mask-yields", "--no-mask-binary"]),
    unique=True,
)


@st.composite
def options(draw):
    """A few options with values right and wrong, most of them right, so that some runs come far."""
    chosen = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, min_size=1, max_size=3))
    return [f"{name}={draw(VALUES[name])}" for name in chosen] + draw(SWITCHES)


@given(options())
@settings(max_examples=45)
def test_any_value_of_an_option(folder, chosen):
    generate(folder, *chosen)


@given(NAMES, st.booleans())
@settings(max_examples=20)
def test_any_name_for_what_the_encoder_sees(folder, name, as_json):
    code, written, _ = run(
        folder, "subject", "check", "subject.png", "--model=model", f"--save={name}", *["--json"] * as_json
    )
    assert written == (code == 0)


@given(st.binary(max_size=40), st.sampled_from(["PNG", "JPEG", "GIF"]), st.integers(0, 200))
@settings(max_examples=10)
def test_any_picture_of_the_subject(folder, tiny, junk, kind, length):
    stream = io.BytesIO()
    tiny.subject().save(stream, kind)
    content = stream.getvalue()
    (folder / "junk").write_bytes(content[: -length or None] + junk)
    code, written, _ = generate(folder, picture="junk")
    assert written == (code == 0)


@given(NAMES)
@settings(max_examples=20)
def test_any_path_of_the_subject(folder, name):
    generate(folder, picture=name)


@pytest.mark.parametrize(
    "chosen",
    [
        ("--scheduler=pndm",),
        ("--num-images=1000000000",),
        ("--model=",),
        ("--device=meta",),
        ("--model=" + "x" * 300,),
        ("--width=4000000000", "--height=4000000000"),
    ],
    ids=["pndm in one step", "many", "no model", "meta", "long model", "overflow"],
)
def test_what_no_run_can_do_is_refused(folder, chosen):
    assert generate(folder, *chosen)[0] == 2
