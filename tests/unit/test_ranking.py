"""Which pictures are kept of several."""

from __future__ import annotations

from math import log

import pytest
import torch
from PIL import Image

from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.scenes import HUES
from realcustom.evaluation.judges import Judges, Reading
from realcustom.evaluation.ranking import Merit, asked, best, merits


@pytest.fixture(scope="module")
def judges():
    places = [place.name for place in PLACES]
    known = {"worn": ["glasses", "top hat"], "beside": ["car", "top hat"]}
    return Judges(places, ["robot", "car", "top hat"], list(HUES), **known, widths=[16] * 4, identity_dim=8)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a red robot on a red background", {"place": "red", "colour": "red"}),
        ("a Robot on a Red background", {"place": "red"}),
        ("a blue robot on red stripes", {"place": "red stripes", "colour": "blue"}),
        ("a green robot in front of red dotted wallpaper", {"place": "red polka dots", "colour": "green"}),
        ("a red robot", {"colour": "red"}),
        ("a black robot", {}),
        ("a robot on black", {"place": "black"}),
        ("a red and blue robot on the beach", {"place": "beach"}),
        ("a robot at a wide beach", {"place": "beach"}),
        ("a robot with a top hat in space", {"place": "space", "worn": "top hat"}),
        ("a robot with a top hat and glasses", {}),
        ("a bored robot in a spaceship", {}),
        ("a robot next to a car in space", {"place": "space", "beside": "car"}),
        ("a robot and the Car", {"beside": "car"}),
        ("a robot beside a top hat", {"beside": "top hat"}),
        ("a blue robot next to a red car", {"colour": "blue", "beside": "car"}),
        ("a robot next to a red car", {"beside": "car"}),
        ("a robot next to car in space", {"place": "space", "beside": "car"}),
        ("a robot wearing glasses and a top hat", {}),
        ("a robot on the beach in the snow", {"place": "beach"}),
        ("a robot in a car", {}),
        ("a robot and a robot-car", {}),
        ("a robot and a car and a top hat", {}),
        ("a robot with a top hat next to a car", {"worn": "top hat", "beside": "car"}),
        ("a robot wearing a red top hat", {"worn": "top hat"}),
        ("a red old toy robot", {"colour": "red"}),
        ("my robot, red, on the beach", {"place": "beach"}),
        ("a red car and the robot", {}),
        ("red robot in space", {"place": "space", "colour": "red"}),
    ],
)
def test_what_a_prompt_asks_for_is_its_place_one_colour_one_thing_worn_and_one_beside(judges, prompt, found):
    assert asked(prompt, judges, ["robot"]) == found


@pytest.mark.parametrize(
    ("prompt", "words", "found"),
    [
        ("a red car next to a robot", ["Car"], {"colour": "red"}),
        ("a robot next to a red car", ["car"], {"colour": "red"}),
        ("a blue top hat in space", ["top hat"], {"place": "space", "colour": "blue"}),
        ("a red top hat and glasses", ["top hat"], {"colour": "red", "worn": "glasses"}),
        ("a red robot and a car", ["robot", "car"], {}),
        ("a red robot and a blue car in space", ["robot", "car"], {"place": "space"}),
    ],
)
def test_the_subjects_own_word_is_neither_worn_nor_beside_and_colour_is_what_stands_before_it(
    judges, prompt, words, found
):
    """Of several subjects none has a colour that the judges could tell from the other's."""
    assert asked(prompt, judges, words) == found


def test_what_the_judges_do_not_know_is_not_asked_for():
    few = Judges(["snow"], ["robot"], ["red"], widths=[16] * 4, identity_dim=8)
    assert asked("a blue robot with a top hat on the beach", few, ["robot"]) == {}


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([(0.5, 0.8), (0.9, 0.1), (0.4, 0.7), (0.9, 0.2), (0.5, 0.8)], [3, 0, 4]),
        ([(0.3, None), (0.7, None), (0.5, None), (0.7, None)], [1, 3]),
        ([(0.3, 0.5), (0.7, 0.5), (0.7, 0.6)], [2]),
    ],
)
def test_the_best_are_surpassed_by_none_and_the_most_alike_come_first(found, kept):
    assert best([Merit(*one) for one in found]) == kept


class ByColour:
    """Judges that tell things by their mean colour and find them everywhere; the place is snow with probability 3/4."""

    labels = {"place": ["snow", "beach"], "noun": ["robot"], "colour": ["red", "blue"]}  # noqa: RUF012

    def read(self, pixels):
        count, everywhere = len(pixels), torch.ones(len(pixels), *pixels.shape[2:])
        logits = {"place": torch.tensor([[log(3), 0.0]]), "colour": torch.zeros(1, 2)}
        told = {name: logit.expand(count, -1) for name, logit in logits.items()}
        return Reading(everywhere, told, self.describe(pixels, everywhere)["identity"])

    def describe(self, pixels, region):
        colours = ((pixels + 1) * region[:, None]).sum(dim=(2, 3))
        return {"identity": torch.nn.functional.normalize(colours, dim=1)}


def test_merits_are_those_worked_out_by_hand():
    red, blue, green = (Image.new("RGB", (128, 128), colour) for colour in ("#ff0000", "#0000ff", "#00ff00"))
    half = Image.new("RGB", (128, 128), "#ff0000")
    half.paste("#0000ff", (64, 0, 128, 128))
    left = torch.zeros(1, 8, 8)
    left[:, :, :4] = 1

    def merit(prompt, *subjects, masks):
        (found,) = merits(ByColour(), prompt, ["robot"] * len(subjects), [half], subjects, torch.stack(masks))
        return found.identity, found.control

    cosine = 0.5**0.5
    assert merit("a robot", [red], masks=[left]) == (pytest.approx(cosine), None)
    assert merit("a robot in the snow", [green, red], masks=[left]) == pytest.approx((cosine, 0.75))  # the likest view
    assert merit("a red robot on the beach", [green], masks=[left]) == pytest.approx((0, (0.25 + 0.5) / 2))
    assert merit("a robot", [red], [blue], masks=[left, 1 - left]) == (pytest.approx(1), None)
    assert merit("a robot", [red], [red], masks=[left, 1 - left]) == (pytest.approx(0), None)  # the least alike subject
