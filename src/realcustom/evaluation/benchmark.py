"""StickerBench: which subjects are shown under which sentences, fixed once and for all by a version.

Each subject is a held-out drawing with one portrait, the reference; it is asked for in sentences of six families, with
several seeds each. What a sentence says is also rendered: the oracle, which really shows the subject re-posed as it is said.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from realcustom.data.examples import Example, Frame
from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import DrawingStore, Split
from realcustom.data.stickers.scenes import HUES, POSITIONS, WORN, Plan, SceneOptions, SceneSource, bare
from realcustom.errors import InputError

VERSION = 3

FAMILIES = {
    "scene": "the subject in a place, by its noun",
    "general": "the same, by a more general word",
    "worn": "wearing something",
    "beside": "with something beside it",
    "colour": "in another colour",
    "position": "in a part of the picture",
}
"""What sentences ask for beside a place."""

SENTENCES = (
    "scene", "worn", "beside", "colour", "position", "scene", "general", "scene", "worn", "beside", "colour", "position",
    "scene", "general", "scene", "worn", "beside", "colour", "position", "general",
)  # fmt: skip
"""The family of each of a subject's sentences. Subject s begins with sentence s, so that a few of each hold all families."""

ANOTHER_COLOUR = 40
"""How far, in degrees, a hue must be from the subject's own to be asked for as another colour."""

SUBJECTS, SEEDS = 64, 2
"""How many subjects there are, and how many pictures of each sentence."""

SUBSET = {"subjects": 10, "prompts": 10, "seeds": 1}
"""A part that is made in minutes: for sweeps."""

_SCENES = SceneOptions(smallest=0.5, largest=0.75, smallest_portrait=0.7, largest_portrait=0.95, backgrounds=48)
_SEEDS: dict[Split, int] = {"validation": 1001, "test": 2002}
_TURNS: dict[Split, int] = {"validation": 0, "test": 17}
"""By how many places the places of sentences without a subject are turned on, and thousands of them the seeds."""

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
    """Also the seed of its pictures; the same whatever part of the list is taken."""
    example: Example
    subject: str
    """Name of the drawing's identity; the two shadings of Fluent Emoji are one."""
    kind: str
    """A more general word for the subject: "animal", "food"."""
    family: str
    repeated: bool
    """Whether it asks for what another item has asked for, with another seed."""

    @property
    def subject_file(self) -> str:
        """The subject's name as files can have it."""
        return self.subject.replace("/", "-").replace(" ", "_")


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
    seed: int
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
        subjects: how many, of as many as there are; a smaller number is a beginning of a larger one, as with the next two.
        prompts: how many sentences about each.
        seeds: how many pictures of each sentence.
        side: of the pictures, in pixels: that of the model which is measured.

    Raises:
        InputError: there are no subjects, or not as many subjects, sentences or seeds as asked for.
    """

    def __init__(
        self,
        store: DrawingStore,
        split: Split,
        subjects: int = SUBJECTS,
        prompts: int = len(SENTENCES),
        seeds: int = SEEDS,
        side: int = 128,
    ) -> None:
        self.split, self.store, self.side = split, store, side
        rows = _subject_rows(store, split)
        if not rows:
            raise InputError(f"none of these {len(store)} drawings is of the {split} split and has a colour of its own")
        for asked, most, what in (
            (subjects, SUBJECTS, "subjects"),
            (prompts, len(SENTENCES), "sentences about each subject"),
            (seeds, SEEDS, "seeds of each"),
        ):
            if not 1 <= asked <= most:
                raise InputError(f"StickerBench has 1 to {most} {what}, not {asked}")
        self._source = source = SceneSource(store, _SCENES, seed=_SEEDS[split], side=side)
        self.items: list[Item] = []
        for number, row in enumerate(rows[:subjects]):
            author = _Author(source, number, row)
            for turn in range(prompts):
                sentence = (number + turn) % len(SENTENCES)
                example = author.example(sentence)
                self.items += [
                    Item(
                        (number * len(SENTENCES) + sentence) * SEEDS + seed,
                        example, store.drawings[row].identity, store.drawings[row].kind, SENTENCES[sentence], seed > 0,
                    )
                    for seed in range(seeds)
                ]  # fmt: skip
        self._index()

    def with_items(self, items: Sequence[Item]) -> StickerBench:
        """Return the same list, but for its items."""
        other = copy.copy(self)
        other.items = list(items)
        other._index()
        return other

    def _index(self) -> None:
        self._by_number = {item.number: item for item in self.items}
        self._first_of: dict[str, Item] = {}
        for item in self.items:
            self._first_of.setdefault(item.subject, item)

    def item(self, number: int) -> Item:
        """Return the item of a number."""
        return self._by_number[number]

    def one_each(self) -> list[Item]:
        """Return the first item of each subject."""
        return list(self._first_of.values())

    def gallery(self, noun: str) -> list[Portrait]:
        """Return every drawing of a noun, held out or not."""
        rows = [row for row, drawing in enumerate(self.store.drawings) if drawing.noun == noun]
        return [Portrait(self.store.drawings[row].identity, bare(self.store.pixels[row], self.side)) for row in rows]

    def text_items(self) -> list[TextItem]:
        """Return three sentences about each well-known noun, which together say every place about equally often.

        Those of the other split say the same nouns in other places, with other seeds.
        """
        turn = _TURNS[self.split]
        places = [PLACES[(number + turn) % len(PLACES)] for number in range(3 * len(self._drawn))]
        pairs = zip(np.repeat(sorted(self._drawn), 3).tolist(), places, strict=True)
        return [
            TextItem(
                number, number + 1000 * turn, f"{with_article(noun)} {_plainest(place.phrases, noun)}", noun, place.name
            )
            for number, (noun, place) in enumerate(pairs)
        ]

    def drawn(self, item: TextItem) -> np.ndarray:
        """Return what a sentence says, really rendered from a drawing that training has seen, `[h, w, 3]` uint8."""
        rng = np.random.default_rng([self._source.seed, 4, item.number])
        row = int(rng.choice(self._drawn[item.noun]))
        place = next(place for place in PLACES if place.name == item.place)
        plan = Plan(row, item.noun, "", 0.0, place, place.phrases, self._source.pose(rng))
        return self._source.render(plan, rng)[0].picture

    @cached_property
    def _drawn(self) -> dict[str, list[int]]:
        """Return the rows of the drawings that training has seen of each well-known noun."""
        rows: dict[str, list[int]] = {}
        for row, drawing in enumerate(self.store.drawings):
            if drawing.common and drawing.split == "train":
                rows.setdefault(drawing.noun, []).append(row)
        return rows

    def paraphrases(self) -> list[TextItem]:
        """Return four sentences with each word or phrase that no caption ever said, the rest as captions say it.

        Those of the other split have the same words and phrases, the rest is another, and so are the seeds.
        """
        on, first = _TURNS[self.split], 1000 * _TURNS[self.split]
        nouns = sorted({drawing.noun for drawing in self.store.drawings if drawing.common})
        items: list[TextItem] = []
        for said, noun in PARAPHRASED_NOUNS.items():
            for place in (PLACES[(7 * len(items) + turn + on) % len(PLACES)] for turn in range(4)):
                prompt = f"{with_article(said)} {_plainest(place.phrases, said)}"
                items.append(TextItem(len(items), len(items) + first, prompt, noun, place.name, ("noun",)))
        for said, place_name in PARAPHRASED_PLACES.items():
            for noun in (nouns[(7 * len(items) + turn + on) % len(nouns)] for turn in range(4)):
                prompt = f"{with_article(noun)} {said}"
                items.append(TextItem(len(items), len(items) + first, prompt, noun, place_name, ("place",)))
        return items

    def other(self, item: Item) -> Item:
        """Return an item of the next subject, whose reference stands in for a wrong one.

        Raises:
            InputError: there is no other subject.
        """
        subjects = list(self._first_of)
        if len(subjects) == 1:
            raise InputError("with a single subject there is no wrong one; take more, or leave the row wrong out")
        return self._first_of[subjects[(subjects.index(item.subject) + 1) % len(subjects)]]

    def asked(self) -> list[list[Any]]:
        """Return what each item asks for, as JSON can hold it."""
        examples = ((item.number, item.example) for item in self.items)
        return [
            [number, one.caption, one.word, dict(sorted(one.facts.items())), np.round(one.frames, 4).tolist()]
            for number, one in examples
        ]

    def digest(self) -> str:
        """Return a hash of all that is asked for and shown, so that two reports are compared only if they should be."""
        digest = hashlib.sha256(json.dumps([VERSION, self.split, self.side, self.asked()], sort_keys=True).encode())
        for item in self.items:
            digest.update(item.example.picture.tobytes() + item.example.reference.tobytes())
        return digest.hexdigest()[:16]


class _Author:
    """Writes and draws what one subject is asked for; each sentence is a function of the list's seed and its own number."""

    def __init__(self, source: SceneSource, number: int, row: int) -> None:
        self._source, self._number, self._row = source, number, row
        self._drawing = source.store.drawings[row]
        rng = self._rng(len(SENTENCES))
        self._mirrored = bool(rng.random() < 0.5)
        own_hue, drawn = source.store.hues[row], source.store.drawings
        self._trained = [other for other, drawing in enumerate(drawn) if drawing.split == "train"]
        known_nouns = {drawn[other].noun for other in self._trained}
        others = [colour for colour, hue in HUES.items() if abs((hue - own_hue + 180) % 360 - 180) > ANOTHER_COLOUR]
        self._worn, self._colours, self._positions = (
            [str(name) for name in rng.permutation([name for name in known if self._unsaid(name)])]
            for known in ([name for name in WORN if name in known_nouns], others, list(POSITIONS))
        )
        common = [other for other in self._trained if drawn[other].common and self._unsaid(drawn[other].noun)]
        self._beside = rng.permutation(common).tolist()
        behind = source.place(rng)
        picture, frame = source.portrait(source.store.pixels[row], behind, rng, mirrored=self._mirrored)
        self._reference: tuple[np.ndarray, Frame, str] = picture, frame, behind.name

    def example(self, sentence: int) -> Example:
        """Return a sentence about the subject, its reference, and a scene that is as the sentence says."""
        source, rng = self._source, self._rng(sentence)
        scene, _ = source.render(self._plan(sentence, rng), rng)
        picture, frame, behind = self._reference
        facts = source.facts(scene) | {"reference_place": behind}
        frames = (scene.pose.frame, frame)
        return Example(scene.picture, scene.caption, scene.word, picture, scene.region, scene.foreground, frames, facts)

    def _plan(self, sentence: int, rng: np.random.Generator) -> Plan:
        family, store = SENTENCES[sentence], self._source.store
        turn = SENTENCES[:sentence].count(family)
        word = self._drawing.noun
        pose, worn, beside, colour, hue, position = self._source.pose(rng), None, None, "", 0.0, ""
        if family == "general":
            word = "thing" if turn == 2 else self._drawing.kind
        elif family == "worn":
            noun = self._worn[turn % len(self._worn)]
            worn = int(rng.choice([row for row in self._trained if store.drawings[row].noun == noun]))
        elif family == "beside":
            beside = self._beside[turn % len(self._beside)]
        elif family == "colour":
            colour = self._colours[turn % len(self._colours)]
            hue = float(HUES[colour] - store.hues[self._row])
        elif family == "position":
            position = self._positions[turn % len(self._positions)]
            pose = self._source.positioned(pose, position, rng)
        place, phrases = self._source.said_place(rng, word, f"{word}s", f"{word}es", colour, position)
        pose = replace(pose, mirrored=self._mirrored)
        return Plan(self._row, word, colour, hue, place, phrases, pose, worn, beside, position)

    def _rng(self, sentence: int) -> np.random.Generator:
        return np.random.default_rng([self._source.seed, 2, self._number, sentence])

    def _unsaid(self, name: str) -> bool:
        """Whether a name shares no word with the subject's own, so that a sentence says each word once."""
        own = f"{self._drawing.noun} {self._drawing.kind}".split()
        return set(name.split()).isdisjoint(own)


def _subject_rows(store: DrawingStore, split: Split) -> list[int]:
    """Return the rows of a split's subjects in the order of the list: all identities that can be recoloured, one row each."""
    rows = [
        row
        for row, drawing in enumerate(store.drawings)
        if drawing.split == split and drawing.noun not in WORN and not np.isnan(store.hues[row])
    ]
    found: dict[str, int] = {}
    for row in np.random.default_rng([_SEEDS[split], 3]).permutation(rows).tolist():
        found.setdefault(store.drawings[row].identity, row)
    return list(found.values())[:SUBJECTS]


def picture_file(number: int) -> str:
    """Return the name of the file of an item's picture."""
    return f"{number:04d}.png"


def _plainest(phrases: Sequence[str], noun: str) -> str:
    return next(phrase for phrase in phrases if noun not in phrase.split())
