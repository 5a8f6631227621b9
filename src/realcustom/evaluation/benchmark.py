"""StickerBench: which subjects are shown under which sentences, fixed once and for all by a version.

Item *n* is example *n* of a source of scenes over held-out drawings: its portrait is the reference, its sentence the
prompt, and the scene itself, which really shows the subject re-posed where the sentence says, is the oracle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from realcustom.data.examples import Example
from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import DrawingStore, Split, identity
from realcustom.data.stickers.scenes import SceneOptions, SceneSource, bare

VERSION = 2

_SCENES = SceneOptions(
    smallest=0.5, largest=0.75, smallest_portrait=0.7, largest_portrait=0.95, backgrounds=48,
    common_share=0.2, kind_share=0.2, thing_share=0.1, colour_share=0.15, hue_share=0.0, worn_share=0.15, beside_share=0.15,
)  # fmt: skip
_SEEDS: dict[Split, int] = {"validation": 1001, "test": 2002}

PARAPHRASED_NOUNS = {
    "puppy": "dog", "kitten": "cat", "bunny": "rabbit", "pony": "horse", "piglet": "pig", "serpent": "snake",
    "tortoise": "turtle", "bumblebee": "bee", "aeroplane": "airplane", "automobile": "car", "present": "gift",
    "toadstool": "mushroom", "cheeseburger": "hamburger",
}  # fmt: skip
"""Words that no caption ever said, and the well-known nouns that they mean."""

PARAPHRASED_PLACES = {
    "on a frozen lake": "snow", "in the jungle": "forest", "on the seashore": "beach", "in the Sahara": "desert",
    "on a coral reef": "underwater", "in the living room": "room", "on a lawn": "meadow",
}  # fmt: skip
"""Phrases that no caption ever said, and the places that they mean."""


@dataclass(frozen=True)
class Item:
    """One subject under one sentence."""

    number: int
    """Also the seed of its pictures."""
    example: Example
    subject: str
    """Name of the drawing's identity; the two shadings of Fluent Emoji are one."""


@dataclass(frozen=True)
class Portrait:
    """One of the drawings among which a subject has to be found again."""

    subject: str
    picture: np.ndarray
    """`[h, w, 3]` uint8, the drawing alone on white."""


@dataclass(frozen=True)
class TextItem:
    """A sentence about one of the well-known nouns, without a subject."""

    number: int
    prompt: str
    noun: str
    place: str
    judged: tuple[Literal["noun", "place"], ...] = ("noun", "place")
    """What of it is looked for in its picture."""


class StickerBench:
    """The work list of one split.

    Args:
        store: all prepared drawings.
        split: "validation", for every choice, or "test", which is scored once for a model card.
        count: how many items; a smaller count is a beginning of a larger one.
        side: of the pictures, in pixels: that of the model which is measured.
    """

    def __init__(self, store: DrawingStore, split: Split, count: int = 400, side: int = 128) -> None:
        self.split, self.store, self.side = split, store, side
        held_out = store.where(lambda drawing: drawing.split == split)
        source = SceneSource(held_out, _SCENES, seed=_SEEDS[split], side=side, reference="other")
        examples = [source[number] for number in range(count)]
        self.items = [
            Item(number, example, identity(example.facts["noun"], example.facts["style"]))
            for number, example in enumerate(examples)
        ]

    def gallery(self, noun: str) -> list[Portrait]:
        """Return every drawing of a noun, held out or not."""
        rows = [row for row, drawing in enumerate(self.store.drawings) if drawing.noun == noun]
        return [Portrait(self.store.drawings[row].identity, bare(self.store.pixels[row], self.side)) for row in rows]

    def text_items(self) -> list[TextItem]:
        """Return three sentences about each well-known noun, which together say every place about equally often."""
        nouns = sorted({drawing.noun for drawing in self.store.drawings if drawing.common})
        pairs = [(noun, PLACES[number % len(PLACES)]) for number, noun in enumerate(np.repeat(nouns, 3).tolist())]
        return [
            TextItem(number, f"{with_article(noun)} {_plainest(place.phrases, noun)}", noun, place.name)
            for number, (noun, place) in enumerate(pairs)
        ]

    def paraphrases(self) -> list[TextItem]:
        """Return four sentences with each word or phrase that no caption ever said, the rest as captions say it."""
        nouns = sorted({drawing.noun for drawing in self.store.drawings if drawing.common})
        items: list[TextItem] = []
        for said, noun in PARAPHRASED_NOUNS.items():
            for place in (PLACES[(7 * len(items) + turn) % len(PLACES)] for turn in range(4)):
                prompt = f"{with_article(said)} {_plainest(place.phrases, said)}"
                items.append(TextItem(len(items), prompt, noun, place.name, ("noun",)))
        for said, place_name in PARAPHRASED_PLACES.items():
            for noun in (nouns[(7 * len(items) + turn) % len(nouns)] for turn in range(4)):
                items.append(TextItem(len(items), f"{with_article(noun)} {said}", noun, place_name, ("place",)))
        return items

    def other(self, item: Item) -> Item:
        """Return the next item with another subject, whose reference stands in for a wrong one."""
        later = (self.items[(item.number + offset) % len(self.items)] for offset in range(1, len(self.items)))
        return next((one for one in later if one.subject != item.subject), item)

    def asked(self) -> list[list[Any]]:
        """Return what each item asks for, as JSON can hold it."""
        examples = ((item.number, item.example) for item in self.items)
        return [
            [number, one.caption, one.word, dict(one.facts), np.round(one.frames, 4).tolist()]
            for number, one in examples
        ]

    def digest(self) -> str:
        """Return a hash of all that is asked for and shown, so that two reports are compared only if they should be."""
        digest = hashlib.sha256(json.dumps([VERSION, self.split, self.side, self.asked()], sort_keys=True).encode())
        for item in self.items:
            digest.update(item.example.picture.tobytes() + item.example.reference.tobytes())
        return digest.hexdigest()[:16]


def _plainest(phrases: Sequence[str], noun: str) -> str:
    return next(phrase for phrase in phrases if noun not in phrase.split())
