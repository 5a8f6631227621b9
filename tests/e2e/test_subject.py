"""`realcustom subject check`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realcustom.apps.cli import main
from realcustom.finding import picture_side
from realcustom.latents import downscaling

ROBOT = Path(__file__).parents[2] / "examples" / "robot.png"


@pytest.fixture
def check(capsys):
    def check(*arguments):
        code = main(["subject", "check", *map(str, arguments)])
        return code, capsys.readouterr()

    return check


def test_a_good_portrait_is_called_one(check):
    code, said = check(ROBOT)
    assert code == 0
    assert said.err == ""
    assert said.out.splitlines() == [
        "picture: 256 x 256 pixels",
        "encoder: sees 128 x 128 pixels, without padding",
        "background: #ffffff, 100% of the border",
        "subject: 1 thing, 81% of the side, middle at 50% from the left and 50% from the top, 208 pixels long",
        "sharpness: 0.430, where 0.03 is sharp enough",
        "advice: none, it is a good portrait",
    ]


def test_advice_is_no_error(check, tmp_path):
    picture = Image.new("RGBA", (300, 900))
    picture.paste(Image.open(ROBOT).convert("RGBA").crop((60, 60, 200, 200)), (0, 100))
    picture.save(tmp_path / "thin.png")
    code, said = check(tmp_path / "thin.png")
    assert code == 0
    lines = said.out.splitlines()
    assert "encoder: sees 128 x 128 pixels, 66% of it padding, left and right" in lines
    assert "transparency: 93%, becomes white" in lines
    assert [line.split(";")[0] for line in lines if line.startswith("advice: ")] == [
        "advice: the subject reaches the left edge of the picture"
    ]


def test_a_turned_picture_is_told_of(check, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(ROBOT).crop((0, 20, 256, 240)).save(tmp_path / "turned.jpg", exif=exif)
    code, said = check(tmp_path / "turned.jpg")
    assert code == 0
    assert said.out.startswith("picture: 220 x 256 pixels, turned from 256 x 220\n")


def test_json_holds_the_figures_and_the_advice(check, tmp_path):
    Image.new("RGB", (300, 200), "#336699").save(tmp_path / "one colour.png")
    code, said = check(tmp_path / "one colour.png", "--json")
    about = json.loads(said.out)
    assert code == 0
    assert about["size"] == [300, 200]
    assert about["subject"] is about["crop"] is about["saved"] is about["sharpness"] is None
    assert about["background"] == "#336699"
    assert about["padded"] == "above and below"
    (advice,) = about["advice"]
    assert advice.startswith("nothing stands out from the background (#336699)")
    about = json.loads(check(ROBOT, "--json")[1].out)
    assert about["advice"] == []
    assert about["subject"]["objects"] == 1


def test_what_the_encoder_sees_is_written_but_over_nothing(check, tmp_path):
    seen = tmp_path / "seen.png"
    assert check(ROBOT, "--save", seen)[0] == 0
    assert Image.open(seen).size == (128, 128)
    small = np.asarray(Image.open(ROBOT).resize((128, 128), Image.Resampling.LANCZOS), int)
    assert np.abs(np.asarray(Image.open(seen), int) - small).max() <= 1
    before = seen.read_bytes()
    code, said = check(tmp_path / "seen.png", "--save", seen)
    assert code == 2
    assert (
        said.err == f"realcustom: {seen} exists; choose another name, or overwrite it (--overwrite, overwrite=True)\n"
    )
    assert seen.read_bytes() == before
    assert check(ROBOT.with_name("rocket.png"), "--save", seen, "--overwrite")[0] == 0
    assert seen.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["seen.png"]
    before = seen.read_bytes()
    code, said = check(seen, "--save", seen, "--overwrite")
    assert code == 2
    assert "seen.png is the subject's picture itself" in said.err
    assert seen.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.png",), "there is no picture absent.png"),
        ((Path(__file__),), "cannot be read as a picture: it is text"),
        ((Path(__file__).parent,), "cannot be read as a picture: it is a folder"),
        ((ROBOT, "--save", "seen.jpg"), "must end in .png"),
        ((ROBOT, "--save", "absent/seen.png"), "does not exist; make it first"),
        ((ROBOT, "--model", "stickres"), "Did you mean 'stickers'?"),
        ((ROBOT, "--save", ".png"), "has no name before .png"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(check, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, said = check(*arguments)
    assert code == 2
    assert message in said.err
    assert said.err.startswith("realcustom: ")
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["autoencoder", "autoencoder_kl"])
def test_the_side_is_read_from_a_models_configs(tiny, tmp_path, kind):
    unet, vae = tiny.unet(), getattr(tiny, kind)()
    unet.save_config(tmp_path / "unet")
    vae.save_config(tmp_path / "vae")
    assert picture_side(tmp_path) == unet.config.sample_size * downscaling(vae)


@pytest.fixture
def base(tiny, tmp_path):
    """A model whose encoder is its autoencoder, by what its files say alone."""
    folder = tmp_path / "base"
    tiny.unet().save_config(folder / "unet")
    tiny.autoencoder().save_config(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"image_encoder": [None, None]}))
    return folder


@pytest.mark.parametrize(("encoders", "side"), [(1, 28), (2, 56)], ids=["one of 28", "two, at double size"])
def test_what_image_encoders_see_has_their_size(tiny, check, base, encoders, side):
    names = list(tiny.image_encoders().items())[:encoders]
    for name, encoder in names:
        encoder.save_pretrained(base / name)
    told = {name: ["transformers", type(encoder).__name__] for name, encoder in names}
    (base / "model_index.json").write_text(json.dumps(told))
    code, said = check(ROBOT, "--model", base)
    assert code == 0, said.err
    assert f"encoder: sees {side} x {side} pixels" in said.out


def test_a_part_may_bring_the_encoders(tiny, check, base, tmp_path):
    assert "sees 32 x 32 pixels" in check(ROBOT, "--model", base)[1].out
    for name, encoder in tiny.image_encoders().items():
        encoder.save_pretrained(tmp_path / "part" / name)
    tiny.adapter(tiny.unet()).save_pretrained(tmp_path / "part" / "adapter")
    assert "sees 56 x 56 pixels" in check(ROBOT, "--model", base, "--adapter", tmp_path / "part")[1].out
    code, said = check(ROBOT, "--model", base, "--adapter", "no such part")
    assert (code, "called 'no such part'" in said.err) == (2, True)


def test_a_model_without_configs_is_refused(check, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    code, said = check(ROBOT, "--model", tmp_path)
    assert code == 2
    assert "does not say how large its pictures are" in said.err
