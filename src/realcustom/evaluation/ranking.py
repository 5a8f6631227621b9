"""Which of several pictures to keep: how much each shows its subjects, and how much of the prompt it obeys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realcustom.data.examples import to_pixels
from realcustom.data.stickers.backgrounds import COLOURS, PLACES
from realcustom.evaluation.judges import Judges
from realcustom.evaluation.scores import pareto_front
from realcustom.masks import resize_mask
from realcustom.subject import Likeness, shown

SIDE = 128
"""Of the pictures that the judges were trained on, in pixels."""

_BESIDE = rf"(?:and|beside|next to) (?:an? |the )?(?:(?:{'|'.join(COLOURS)}) )?"
"""What comes before the name of a second thing."""


@dataclass(frozen=True)
class Merit:
    """What is to be said for one picture."""

    identity: float
    """Cosine of the judges' embeddings of the subject and of its picture, in [-1, 1]; of several subjects the lowest."""
    control: float | None
    """Mean probability of what the prompt asks for and the judges know, in [0, 1]; None if they know nothing of it."""


def asked(prompt: str, judges: Judges, words: Sequence[str]) -> dict[str, str]:
    """Return what a prompt asks for that the judges can see, by the names of their labels.

    These are its place, that of the longest phrase if it says several; what is worn and what is beside the subject, where it
    says one and no more of each; and, of a single subject, the colour that stands before its word.

    Args:
        prompt: a sentence.
        judges: of the stickers world.
        words: what the prompt calls its subjects, which are neither worn nor beside.
    """
    found, rest, own = {}, prompt.lower(), [word.lower() for word in words]
    # A colour's name alone, as in "a red robot", says nothing of the place.
    named = [(place.name, place.name) for place in PLACES if place.name not in COLOURS]
    phrases = [*named, *((phrase, place.name) for place in PLACES for phrase in place.phrases)]
    for phrase, name in sorted(phrases, key=lambda one: -len(one[0])):
        if name in judges.labels["place"] and _said(rest, [phrase]):
            found["place"] = name
            rest = rest.replace(phrase, " ")  # "on a glass" says nothing of what is worn
            break
    wearable, others = (
        [label for label in judges.labels.get(kind, ()) if label not in own] for kind in ("worn", "beside")
    )
    beside = _said(rest, others, _BESIDE)
    if "wearing" in rest:  # "wearing glasses and a crown"
        beside = [label for label in beside if label not in wearable]
    for label in beside:  # it is not worn
        rest = re.sub(_pattern(label, _BESIDE), " ", rest)
    colour = _said(_described(prompt.lower(), own[0]), judges.labels.get("colour", ())) if len(own) == 1 else []
    said = {"beside": beside, "worn": _said(rest, wearable), "colour": colour}
    return found | {kind: labels[0] for kind, labels in said.items() if len(labels) == 1}


def _described(prompt: str, word: str) -> str:
    """Return what stands between an article, or the beginning, and a word: "old red" of "on an old red taxi"."""
    before = rf"(?:^|\b(?:an?|the)\s)((?:(?!(?:an?|the)\s)[\w-]+\s+)*)(?={_pattern(word)})"
    found = re.search(before, prompt)
    return found[1] if found else ""


def _pattern(words: str, before: str = "") -> str:
    return rf"\b{before}{re.escape(words.lower())}(?![\w-])"


def _said(prompt: str, labels: Iterable[str], before: str = "") -> list[str]:
    return [label for label in labels if label and re.search(_pattern(label, before), prompt)]


@torch.no_grad()
def merits(
    judges: Judges,
    prompt: str,
    words: Sequence[str],
    pictures: Sequence[Image.Image],
    subjects: Sequence[Sequence[Likeness]],
    masks: Tensor,
) -> list[Merit]:
    """Return the merit of each of `b` pictures.

    Args:
        judges: of the stickers world.
        prompt: of all pictures.
        words: what it calls each of `s` subjects.
        pictures: all of one size.
        subjects: the pictures of each.
        masks: `[s, b, h, w]`, where each could act, which tells several apart.
    """
    wanted = asked(prompt, judges, words)
    pixels = to_pixels([np.asarray(one.convert("RGB").resize((SIDE, SIDE))) for one in pictures])
    reading = judges.read(pixels)
    seen = {
        name: reading.logits[name].softmax(dim=1)[:, judges.labels[name].index(label)] for name, label in wanted.items()
    }
    control = torch.stack(list(seen.values())).mean(dim=0).tolist() if seen else [None] * len(pictures)
    likeness = []
    for number, likenesses in enumerate(subjects):
        own = reading.identity
        if len(subjects) > 1:
            within = reading.region.round() * resize_mask((masks[number] > 0).float(), (SIDE, SIDE)).round()
            own = judges.describe(pixels, within)["identity"]
        known = judges.read(to_pixels([np.asarray(shown(one, SIDE)) for one in likenesses])).identity
        likeness.append((own @ known.T).amax(dim=1))
    identity = torch.stack(likeness).amin(dim=0).tolist()
    return [Merit(one, other) for one, other in zip(identity, control, strict=True)]


def best(found: Sequence[Merit]) -> list[int]:
    """Return the numbers of the pictures that no other one surpasses in both respects, the most alike first."""
    values = [(merit.identity, 0.0 if merit.control is None else merit.control) for merit in found]
    return sorted(pareto_front(values), key=lambda number: values[number], reverse=True)
