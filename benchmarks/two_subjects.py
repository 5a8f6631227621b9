"""Two subjects in one picture: whether both are identified, and whether either is mixed with the other.

    python benchmarks/two_subjects.py [--drawings runs/stickers/drawings] [--pairs 32] [--grid pairs.png]

Pairs of held-out drawings (validation split) of different nouns, whose portraits come from StickerBench, under "a robot and an
owl on a white background". On white no network has to tell what belongs to a thing: what is not white is parted in two by its
position, and each part is compared with the drawings of both nouns by StickerBench's encoder of identities. Of the two ways of
saying which part is whose, the better one counts. A subject is "identified" if its part is closer to its own drawing than to
any other of its noun, and "mixed" if it is closer to the other subject's drawing than to its own.

Means and 95 % intervals over pairs. The rows: "together", both subjects in one run; "boxed", the same with a given mask for
each, the left and the right half; "first alone" and "second alone", the same sentence with one of them, the other word left to
the text; "one by one", the second subject together with the picture that the first one alone gave; "text", the sentence alone;
"real", both drawings laid on white.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import tables
import torch
from PIL import Image

from realcustom import RealCustomPipeline, Subject
from realcustom.data.examples import to_pixels
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.data.stickers.scenes import Pose, place_drawing
from realcustom.evaluation.benchmark import Item, StickerBench
from realcustom.evaluation.galleries import Galleries, likeness
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.scores import bootstrap, retrieved
from realcustom.loading import load_strictly

SIDE = 128

WHITE = 40
"""How much darker than white a colour is that is not white any more, in levels of 255."""

FIGURES = ("both identified", "first identified", "second identified", "mixed", "smaller part")


@dataclass(frozen=True)
class Pair:
    """Two subjects in one sentence."""

    number: int
    first: Item
    second: Item

    @property
    def nouns(self) -> list[str]:
        """What the two are."""
        return [one.example.facts["noun"] for one in (self.first, self.second)]

    @property
    def prompt(self) -> str:
        """The sentence."""
        return " and ".join(map(with_article, self.nouns)) + " on a white background"

    def subjects(self) -> list[Subject]:
        """Return both."""
        items = zip((self.first, self.second), self.nouns, strict=True)
        return [Subject(Image.fromarray(item.example.reference), noun, occurrence=1) for item, noun in items]


def pairs_of(bench: StickerBench, count: int) -> list[Pair]:
    """Return pairs of different subjects whose nouns share no word."""
    found: list[Pair] = []
    for first, second in list(pairwise(bench.one_each()))[::2]:
        pair = Pair(len(found), first, second)
        if set(pair.nouns[0].split()).isdisjoint(pair.nouns[1].split()):
            found.append(pair)
    return found[:count]


def ways(pipeline: RealCustomPipeline, store: DrawingStore) -> dict[str, Callable[[Pair], Image.Image]]:
    """Return how each row's picture of a pair is made."""

    def make(pair: Pair, subjects: Sequence[Subject]) -> Image.Image:
        generator = torch.Generator().manual_seed(pair.number)
        return pipeline(pair.prompt, subjects=subjects or None, generator=generator).images[0]

    def boxed(pair: Pair) -> Image.Image:
        halves = Image.new("L", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
        halves[0].paste(255, (0, 0, SIDE // 2, SIDE))
        halves[1].paste(255, (SIDE // 2, 0, SIDE, SIDE))
        return make(pair, [replace(one, mask=half) for one, half in zip(pair.subjects(), halves, strict=True)])

    def one_by_one(pair: Pair) -> Image.Image:
        first, second = pair.subjects()
        return make(pair, [Subject(make(pair, [first]), first.word, occurrence=1), second])

    def real(pair: Pair) -> Image.Image:
        canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
        for item, pose in (
            (pair.first, Pose(0.28, 0.5, 0.5, 3.0, mirrored=False)),
            (pair.second, Pose(0.76, 0.58, 0.4, -3.0, mirrored=False)),
        ):
            facts = item.example.facts
            row = next(
                row
                for row, drawing in enumerate(store.drawings)
                if (drawing.noun, drawing.style) == (facts["noun"], facts["style"])
            )
            canvas = place_drawing(canvas, store.pixels[row], pose)[0]
        return Image.fromarray(canvas)

    return {
        "together": lambda pair: make(pair, pair.subjects()),
        "boxed": boxed,
        "first alone": lambda pair: make(pair, pair.subjects()[:1]),
        "second alone": lambda pair: make(pair, pair.subjects()[1:]),
        "one by one": one_by_one,
        "text": lambda pair: make(pair, []),
        "real": real,
    }


def parted(picture: np.ndarray) -> np.ndarray:
    """Return two regions `[2, h, w]` of what is not white in `[h, w, 3]` uint8, parted by position (2-means)."""
    inked = picture.min(axis=2) < 255 - WHITE
    places = np.argwhere(inked).astype(np.float32)
    regions = np.zeros((2, *inked.shape), np.float32)
    if len(places) < 2:
        return regions
    centres = places[[places[:, 1].argmin(), places[:, 1].argmax()]]
    for _ in range(20):
        nearest = ((places[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack([places[nearest == one].mean(axis=0) for one in (0, 1)])
    rows, columns = places.astype(int).T
    regions[nearest, rows, columns] = 1
    return regions


class Examiner:
    """Compares parts of pictures with drawings."""

    def __init__(self, bench: StickerBench, judges: Judges) -> None:
        self._judges, self._galleries = judges, Galleries(bench, judges)

    @torch.no_grad()
    def figures(self, pair: Pair, picture: Image.Image) -> dict[str, float]:
        """Return 1 or 0 for what is true of a picture, and the smaller part's share of what is not white."""
        pixels = np.asarray(picture.convert("RGB"))
        regions = parted(pixels)
        parts = self._judges.describe(to_pixels([pixels, pixels]), torch.from_numpy(regions))["identity"].numpy()
        items, galleries = (pair.first, pair.second), [self._galleries.of(noun) for noun in pair.nouns]
        alike = np.array(
            [
                [likeness(part, *gallery, item.subject) for item, gallery in zip(items, galleries, strict=True)]
                for part in parts
            ]
        )
        order = (0, 1) if alike.trace() >= alike[::-1].trace() else (1, 0)
        found = [
            retrieved(parts[part], *gallery) == item.subject
            for part, gallery, item in zip(order, galleries, items, strict=True)
        ]
        mixed = any(alike[part, 1 - number] > alike[part, number] for number, part in enumerate(order))
        areas = regions.sum(axis=(1, 2))
        return {
            "both identified": float(all(found)),
            "first identified": float(found[0]),
            "second identified": float(found[1]),
            "mixed": float(mixed),
            "smaller part": float(areas.min() / max(1.0, areas.sum())),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--drawings", type=Path, default=Path("runs/stickers/drawings"))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--grid", type=Path, help="also show the first eight pairs: references, then a row each")
    options = parser.parse_args(arguments)
    store = DrawingStore.load(options.drawings)
    bench = StickerBench(store, "validation", prompts=1, seeds=1, side=SIDE)
    pipeline = RealCustomPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    examiner = Examiner(bench, load_strictly(Judges, SHIPPED))
    pairs = pairs_of(bench, options.pairs)
    tables.begin(f"{len(pairs)} pairs", *FIGURES)
    shown = [[Image.fromarray(item.example.reference) for item in (pair.first, pair.second)] for pair in pairs[:8]]
    strips = [[references[number] for references in shown] for number in (0, 1)]
    for name, make in ways(pipeline, store).items():
        pictures = [make(pair) for pair in pairs]
        strips.append(pictures[:8])
        measured = [examiner.figures(pair, picture) for pair, picture in zip(pairs, pictures, strict=True)]
        groups = [str(pair.number) for pair in pairs]
        tables.add(name, *(tables.share(bootstrap([one[figure] for one in measured], groups)) for figure in FIGURES))
    if options.grid:
        tiles = [np.concatenate([np.asarray(one.resize((SIDE, SIDE))) for one in strip], axis=1) for strip in strips]
        Image.fromarray(np.concatenate(tiles)).save(options.grid)


if __name__ == "__main__":
    main()
