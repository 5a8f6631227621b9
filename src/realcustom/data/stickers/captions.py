"""Sentences about scenes: who is there, in which colour, and where."""

from __future__ import annotations

import re

import numpy as np

_TEMPLATES = (
    "{thing} {where}",
    "{thing} {where}",
    "{thing} {where}",
    "a picture of {thing} {where}",
    "a drawing of {thing} {where}",
    "{where}, {thing}",
)

_MASS = {
    "bacon",
    "bread",
    "broccoli",
    "butter",
    "corn",
    "coral",
    "curry",
    "fire",
    "food",
    "garlic",
    "lettuce",
    "meat",
    "milk",
}
_MASS |= {"popcorn", "salad", "salt", "soap", "soda", "spaghetti", "stew", "sushi", "wood", "yarn"}
_SINGULAR_IN_S = {
    "abacus",
    "bus",
    "cactus",
    "compass",
    "glass",
    "hibiscus",
    "hippopotamus",
    "lotus",
    "octopus",
    "trolleybus",
}


def connecting_words() -> str:
    """Return what a caption says beside names and phrases."""
    return f"a an wearing and next to {re.sub(r'{.*?}', '', ' '.join(_TEMPLATES))}"


def takes_article(words: str) -> bool:
    """Whether one says "a" before the words; not so for plurals ("grapes") and masses ("food")."""
    last = words.split(" with ")[0].split()[-1]
    plural = last.endswith("s") and not last.endswith("ss") and last not in _SINGULAR_IN_S
    return not plural and last not in _MASS


def with_article(words: str) -> str:
    """Return the words with "a" or "an" in front where English wants one."""
    if not takes_article(words):
        return words
    vowel = words[0] in "aeio" or words.startswith(("um", "ur", "hour"))
    return f"an {words}" if vowel else f"a {words}"


def caption(
    thing: str, where: str, rng: np.random.Generator, *, worn: str = "", beside: str = "", position: str = ""
) -> str:
    """Return one of several sentences that say that `thing` ("robot", "purple robot") is `where` ("on the beach").

    Args:
        thing: without its article, like the next ones.
        where: with its preposition.
        rng: chooses the sentence.
        worn: what the thing wears, if anything.
        beside: what else is there, if anything.
        position: in which part of the picture ("on the left"), if that is said.
    """
    said = with_article(thing)
    said += f" wearing {with_article(worn)}" if worn else ""
    said += f" {rng.choice(('and', 'next to'))} {with_article(beside)}" if beside else ""
    said += f" {position}" if position else ""
    return str(rng.choice(_TEMPLATES)).format(thing=said, where=where)
