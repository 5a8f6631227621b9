"""The judges that ship see what is drawn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from realcustom.data.examples import to_pixels
from realcustom.data.stickers.backgrounds import PLACES, paint
from realcustom.data.stickers.drawings import vocabulary
from realcustom.data.stickers.scenes import WORN, Pose, place_drawing
from realcustom.evaluation.judges import Judges
from realcustom.loading import load_strictly
from realcustom.masks import overlap


@pytest.fixture(scope="module")
def judges():
    return load_strictly(Judges, Path(str(resources.files("realcustom"))) / "models" / "judges")


def test_they_know_every_place_and_all_that_is_worn(judges):
    assert judges.labels["place"] == [place.name for place in PLACES]
    assert judges.labels["worn"] == ["", *sorted(WORN)]
    assert judges.labels["beside"] == [
        "",
        *sorted({one.noun for one in vocabulary() if one.common and not one.held_out}),
    ]


@torch.no_grad()
def test_they_tell_the_place_and_find_the_thing(judges):
    """A drawing of no icon set, in every place."""
    drawing = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(drawing)
    draw.rounded_rectangle((14, 8, 114, 120), 20, fill="#e0a030", outline="#503010", width=6)
    for left in (36, 76):
        draw.ellipse((left, 36, left + 20, 56), fill="#202020")
    rng = np.random.default_rng(0)
    pose = Pose(0.5, 0.55, 0.6, 0.0, mirrored=False)
    scenes = [place_drawing(paint(place, rng, 128), np.asarray(drawing), pose) for place in PLACES]
    reading = judges.read(to_pixels([picture for picture, _ in scenes]))
    seen = [judges.labels["place"][int(row.argmax())] for row in reading.logits["place"]]
    right = [name == place.name for name, place in zip(seen, PLACES, strict=True)]
    assert np.mean(right) > 0.9
    regions = torch.from_numpy(np.stack([region for _, region in scenes]))
    assert float(overlap((reading.region >= 0.5).float(), regions).mean()) > 0.7


@torch.no_grad()
def test_they_find_what_is_beside_a_thing_and_that_nothing_is(judges):
    """Two drawings of no icon set, the smaller one to the right; then the larger one alone."""
    thing, other = Image.new("RGBA", (128, 128)), Image.new("RGBA", (128, 128))
    ImageDraw.Draw(thing).rounded_rectangle((14, 8, 114, 120), 20, fill="#e0a030", outline="#503010", width=6)
    ImageDraw.Draw(other).ellipse((6, 6, 121, 121), fill="#3060c0", outline="#102040", width=6)
    rng = np.random.default_rng(0)
    places = [place for place in PLACES if "striped" not in place.name and "dotted" not in place.name]
    alone = [
        place_drawing(paint(place, rng, 128), np.asarray(thing), Pose(0.36, 0.5, 0.55, 0.0, mirrored=False))[0]
        for place in places
    ]
    pose = Pose(0.8, 0.62, 0.3, 0.0, mirrored=False)
    both, regions = zip(*(place_drawing(picture, np.asarray(other), pose) for picture in alone), strict=True)
    found = judges.segment(to_pixels(list(both))).sigmoid()[:, 1].round()
    assert float(overlap(found, torch.from_numpy(np.stack(regions))).mean()) > 0.6
    there = [judges.read(to_pixels(list(pictures))).logits["beside"].argmax(dim=1) != 0 for pictures in (both, alone)]
    assert float(there[0].float().mean()) > 0.8
    assert float(there[1].float().mean()) < 0.2
