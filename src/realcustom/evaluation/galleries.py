"""The drawings among which a subject has to be found again."""

from __future__ import annotations

import numpy as np

from realcustom.data.examples import to_pixels
from realcustom.evaluation.benchmark import Item, StickerBench
from realcustom.evaluation.judges import Judges, bare_region
from realcustom.evaluation.scores import chance_of_retrieval, retrieved


class Galleries:
    """Every noun's drawings as the judges' encoder of identities sees them, embedded once a noun."""

    def __init__(self, bench: StickerBench, judges: Judges) -> None:
        self._bench, self._judges = bench, judges
        self._known: dict[str, tuple[np.ndarray, list[str]]] = {}

    def of(self, noun: str) -> tuple[np.ndarray, list[str]]:
        """Return the embeddings `[k, c]` of a noun's drawings and whose they are; drawings alike have one name."""
        if noun not in self._known:
            portraits = self._bench.gallery(noun)
            pixels = to_pixels([portrait.picture for portrait in portraits])
            seen = self._judges.describe(pixels, bare_region(pixels))
            self._known[noun] = seen["identity"].numpy(), [one.subject for one in portraits]
        return self._known[noun]

    def identity(self, item: Item, embedding: np.ndarray) -> dict[str, float]:
        """Return whether `embedding [c]` finds the item's subject, the chance of that, and how like it is.

        None of them for an item whose sentence recolours the subject, or whose noun has no other drawing.
        """
        if item.example.facts["colour"]:
            return {}
        gallery, names = self.of(item.example.facts["noun"])
        if len(set(names)) < 2:
            return {}
        return {
            "identity": float(retrieved(embedding, gallery, names) == item.subject),
            "identity_chance": chance_of_retrieval(names, item.subject),
            "similarity": likeness(embedding, gallery, names, item.subject),
        }


def likeness(embedding: np.ndarray, gallery: np.ndarray, names: list[str], subject: str) -> float:
    """Return the largest cosine between an embedding and those of a subject's drawings."""
    own = [place for place, name in enumerate(names) if name == subject]
    return float((gallery[own] @ embedding).max())
