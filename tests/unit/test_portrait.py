from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from realcustom.placement import PORTRAIT
from realcustom.portrait import SHARP, examine

EXAMPLES = Path(__file__).parents[2] / "examples"
WHITE, WALL, NIGHT = "white", "#c8b090", "#202830"


def toy(canvas, box, colour="#d04030"):
    """Draw a thing with details into a box."""
    draw, (left, top, right, bottom) = ImageDraw.Draw(canvas), box
    width, height = right - left, bottom - top
    draw.ellipse(box, fill=colour, outline="#602010", width=max(1, width // 30))
    for x in (0.3, 0.6):
        eye = left + x * width, top + 0.3 * height, left + (x + 0.1) * width, top + 0.4 * height
        draw.ellipse(eye, fill="#f8f8f8", outline="black")
    draw.rectangle((left + 0.3 * width, top + 0.6 * height, left + 0.7 * width, top + 0.65 * height), fill="#202060")
    return canvas


def scene(size=(256, 256), box=(24, 24, 232, 232), background=WALL):
    return toy(Image.new("RGB", size, background), box)


def gradient():
    rows = np.linspace(90, 210, 256)[:, None, None] * np.ones((1, 256, 3))
    return Image.fromarray(rows.astype(np.uint8))


def grainy(strength):
    noise = np.random.default_rng(0).normal(0, strength, (256, 256, 3))
    return Image.fromarray(np.clip(np.asarray(Image.new("RGB", (256, 256), WALL)) + noise, 0, 255).astype(np.uint8))


def bricks():
    canvas = Image.new("RGB", (256, 256), "#803020")
    draw = ImageDraw.Draw(canvas)
    for row in range(8):
        for column in range(5):
            left = column * 64 - row % 2 * 32
            draw.rectangle((left, row * 32, left + 40, row * 32 + 20), fill="#e8d8c8")
    return canvas


def cut_out(size=(256, 256), box=(24, 24, 232, 232), colour="#d04030", detailed=True):
    canvas = Image.new("RGBA", size)
    if detailed:
        return toy(canvas, box, colour)
    ImageDraw.Draw(canvas).ellipse(box, fill=colour)
    return canvas


@pytest.mark.parametrize("name", ["robot", "elephant", "rocket"])
def test_the_examples_are_good_portraits(name):
    assert examine(Image.open(EXAMPLES / f"{name}.png"), 128).advice == ()


@pytest.mark.parametrize(
    "picture",
    [
        scene(background=WHITE),
        scene(background=NIGHT),
        scene().convert("L"),
        toy(gradient(), (24, 24, 232, 232)),
        toy(grainy(40), (24, 24, 232, 232)),
        cut_out(),
        scene(size=(340, 256), box=(50, 14, 280, 244)),
        scene((400, 400), (62, 62, 338, 338)),
        scene().resize((2000, 2000)),
    ],
    ids=["white", "dark", "grey", "gradient", "grainy", "cut-out", "wide", "smaller", "large"],
)
@pytest.mark.parametrize("side", [64, 128, 224])
def test_a_good_portrait_gets_no_advice(picture, side):
    assert examine(picture, side).advice == ()


@pytest.mark.parametrize(
    ("picture", "advice"),
    [
        (scene((100, 100), (10, 10, 90, 90)), [r"the subject is only 8\d pixels long; .* it is 106 or more"]),
        (bricks().resize((90, 90)), [r"only \d\d% of the picture's border", "the picture is only 90 pixels long"]),
        (scene().filter(ImageFilter.GaussianBlur(5)), [rf"blurred: its sharpness is 0\.0\d\d, but should be {SHARP}"]),
        (toy(scene(box=(10, 60, 115, 165)), (140, 60, 245, 165)), ["there are 2 separate things"]),
        (scene(box=(-60, 24, 148, 232)), ["reaches the left edge of the picture"]),
        (scene(box=(24, 90, 232, 298)), ["reaches the bottom edge"]),
        (scene(box=(-20, -20, 188, 188)), ["reaches the left and top edge"]),
        (cut_out(box=(0, 0, 255, 255)), ["reaches the left and top and right and bottom edge"]),
        (
            scene((1000, 250), (20, 20, 230, 230)),
            [r"is 4\.0 times as wide as high, so 75% of .* is padding", r"the subject takes 2\d% of the side"],
        ),
        (scene((200, 700), (20, 250, 180, 410)), [r"is 3\.5 times as high as wide", "the subject takes"]),
        (Image.new("RGB", (500, 20), "red"), ["25.0 times as wide as high"]),
        (Image.new("RGB", (500, 1), "red"), ["500.0 times as wide as high"]),
        (scene((512, 512), (160, 160, 352, 352)), [r"takes [34]\d% of the side, .* square of 2\d\d pixels at \(13\d, 13\d\)$"]),
        (scene(box=(10, 48, 170, 208)), [r"middle at 35% from the left and 51% .* at \(-9, 31\), with more background around"]),
        (toy(bricks(), (40, 40, 216, 216)), [r"only \d\d% of the picture's border is of one colour"]),
        (Image.new("RGB", (256, 256), "#102030"), [r"nothing stands out from the background \(#102030\)"]),
        (Image.new("RGB", (1, 1), "red"), ["nothing stands out"]),
        (Image.new("RGBA", (256, 256)), [r"nothing stands out from the background \(#ffffff, where it is transparent\)"]),
        (cut_out(colour="#f8f8f8", detailed=False), ["nothing stands out"]),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_figure(picture, advice):
    given = examine(picture, 128).advice
    assert len(given) == len(advice), given
    for sentence, pattern in zip(given, advice, strict=True):
        assert re.search(pattern, sentence), sentence
        assert "\n" not in sentence


@pytest.mark.parametrize("box", [(24, 24, 232, 232), (40, 100, 120, 220), (150, 10, 250, 90)])
@pytest.mark.parametrize("paint", [scene, cut_out], ids=["photograph", "cut-out"])
def test_the_subject_is_found_where_it_is(paint, box):
    subject = examine(paint(box=box), 128).subject
    assert np.abs(np.array(subject.box) - np.array(box) / 256).max() <= 1 / 64
    assert subject.fill == pytest.approx((box[2] - box[0]) * (box[3] - box[1]) * np.pi / 4 / 256**2, rel=0.1)
    assert (subject.objects, subject.edges) == (1, ())
    assert subject.pixels == pytest.approx(max(box[2] - box[0], box[3] - box[1]), abs=8)


def test_the_frame_is_the_subjects_or_a_portraits():
    frame = examine(scene(box=(40, 100, 120, 220)), 128).frame
    assert np.abs(np.subtract(frame, (160 / 256, 80 / 256, 120 / 256))).max() <= 1 / 32
    assert examine(bricks(), 128).frame == PORTRAIT


def test_shares_are_of_the_square_that_the_encoder_sees():
    portrait = examine(scene(size=(128, 256), box=(20, 40, 108, 128)), 64)
    assert (portrait.padding, portrait.padded, portrait.size) == (0.5, "left and right", (128, 256))
    assert np.abs(np.array(portrait.subject.box) - np.array((84, 40, 172, 128)) / 256).max() <= 1 / 64
    assert examine(scene(size=(256, 128), box=(40, 20, 128, 108)), 64).padded == "above and below"
    assert examine(scene(), 64).padded == ""


@pytest.mark.parametrize("size", [(600, 400), (400, 600)])
def test_the_square_that_is_advised_is_a_good_portrait(size):
    picture = scene(size, box=(150, 130, 290, 270))
    portrait = examine(picture, 128)
    assert any("take the square" in sentence for sentence in portrait.advice)
    left, top, right, bottom = portrait.crop
    assert abs(right - left - 140 / 0.825) < 16
    assert examine(picture.crop((left, top, right, bottom)), 128).advice == ()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_separate_things_are_counted_and_crumbs_are_not(number):
    picture = Image.new("RGB", (256, 256), WHITE)
    for place in range(number):
        left, top = 20 + place % 2 * 120, 20 + place // 2 * 120
        toy(picture, (left, top, left + 90, top + 90))
    draw = ImageDraw.Draw(picture)
    for x in (126, 200):
        draw.ellipse((x, 240, x + 6, 246), fill="black")
    assert examine(picture, 128).subject.objects == number


def test_a_ring_is_one_thing_together_with_its_hole():
    picture = Image.new("RGB", (256, 256), WHITE)
    ImageDraw.Draw(picture).ellipse((24, 24, 232, 232), outline="black", width=12)
    subject = examine(picture, 128).subject
    assert subject.objects == 1
    assert subject.fill == pytest.approx(np.pi / 4 * (208 / 256) ** 2, rel=0.1)


def test_what_is_told_of_transparency_and_of_turning():
    portrait = examine(cut_out(), 128)
    assert portrait.background == "#ffffff"
    assert portrait.transparent == pytest.approx(1 - np.pi / 4 * (208 / 256) ** 2, abs=0.03)
    assert examine(scene().convert("RGBA"), 128).transparent == 0
    lying = scene(size=(300, 200), box=(50, 20, 210, 180))
    lying.getexif()[0x0112] = 6
    portrait = examine(lying, 128)
    assert (portrait.stored, portrait.size) == ((300, 200), (200, 300))


def test_no_background_is_concluded_from_a_border_of_many_colours():
    portrait = examine(bricks(), 128)
    assert (portrait.background, portrait.subject, portrait.crop) == (None, None, None)
    assert portrait.calm < 0.7


def test_sharpness_falls_with_blur_and_not_with_contrast_or_size():
    picture = scene(background=WHITE)
    figures = [examine(picture.filter(ImageFilter.GaussianBlur(radius)), 128).sharpness for radius in (0, 1, 2, 4, 8)]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 3 * SHARP
    pale = Image.blend(picture, Image.new("RGB", picture.size, WHITE), 0.5)
    assert examine(pale, 128).sharpness == pytest.approx(figures[0], rel=0.1)
    assert examine(picture.resize((1024, 1024)), 128).sharpness == pytest.approx(figures[0], rel=0.2)
    assert examine(Image.new("RGB", (500, 1)), 128).sharpness is None


def test_of_a_busy_background_nothing_is_concluded_and_that_is_said():
    portrait = examine(bricks(), 128)
    assert portrait.subject is None
    assert portrait.frame == PORTRAIT
    assert any(re.match(r"background: busy, only \d\d% of the border", line) for line in portrait.lines())
    assert any("cut it out" in sentence for sentence in portrait.advice)
