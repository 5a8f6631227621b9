"""What is computed from what the judges saw. Pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

DRAWS = 1000
"""How often the groups are drawn anew for an interval."""


def retrieved(embedding: Float[np.ndarray, " c"], gallery: Float[np.ndarray, "n c"], names: Sequence[str]) -> str:
    """Return the name of the gallery's entry that is closest to an embedding; all have length 1, and "" is that of zero."""
    if not embedding.any():
        return ""
    return names[int((gallery @ embedding).argmax())]


def chance_of_retrieval(names: Sequence[str], subject: str) -> float:
    """Return how often a random pick from a gallery is the subject."""
    return names.count(subject) / len(names)


def pairwise_cosine(made: Float[np.ndarray, "n c"], real: Float[np.ndarray, "m c"]) -> Float[np.ndarray, " n"]:
    """Return the mean cosine of each picture's embedding with those of all real ones; all have length 1."""
    return made.astype(np.float64) @ real.astype(np.float64).mean(axis=0)


def part_of(y: float, x: float) -> str:
    """Return the part of a picture, "left", "right", "top" or "bottom", into which a point lies farthest from the middle.

    Coordinates are shares of the picture's side, y downward.
    """
    down, across = y - 0.5, x - 0.5
    if abs(across) >= abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"


def bootstrap(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Return mean and 95 % interval of values whose groups (subjects) are drawn anew, as [mean, low, high].

    Values that are NaN take no part; without any other, the mean is NaN. A single group tells nothing of others: then, as
    without any, there is no interval, only [mean]. Of ten groups the interval is a little narrow: it holds the mean of all
    nine times in ten.
    """
    known = [(value, group) for value, group in zip(values, groups, strict=True) if not np.isnan(value)]
    if not known:
        return [float("nan")]
    names, of = np.unique([group for _, group in known], return_inverse=True)
    sums, counts = np.bincount(of, weights=[value for value, _ in known]), np.bincount(of)
    if len(names) == 1:
        return [float(sums.sum() / counts.sum())]
    chosen = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    return [float(sums.sum() / counts.sum()), *(float(bound) for bound in np.percentile(means, [2.5, 97.5]))]


def means_of(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return how many pictures there are, and [mean, low, high] of every named figure that any of them has.

    Args:
        records: one for each picture; "group" is what intervals are drawn over.
        names: of the figures.
    """
    groups = [record["group"] for record in records]
    figures: dict[str, Any] = {"pictures": len(records)}
    for name in names:
        values = [record.get(name, float("nan")) for record in records]
        if not np.all(np.isnan(values)):
            figures[name] = [round(value, 4) for value in bootstrap(values, groups)]
    return figures


def best_median_worst(
    records: Sequence[Mapping[str, Any]], names: Collection[str], count: int
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of which the product of some figures, similarity and control, is highest, middle and lowest.

    Args:
        records: of pictures; those that lack one of the figures take no part.
        names: of the figures.
        count: how many of each at most; no record is in two groups, and a group without any is left out.
    """
    scored = [record for record in records if record.keys() >= set(names)]
    scored.sort(key=lambda record: _worth([record[name] for name in names]), reverse=True)
    count = min(count, -(-len(scored) // 3))
    best, others = scored[:count], scored[count:]
    middle, worst = others[:-count], others[-count:]
    start = max(0, len(middle) // 2 - count // 2)
    groups = {"Best": best, "Median": middle[start : start + count], "Worst": worst}
    return {name: group for name, group in groups.items() if group}


def _worth(figures: Sequence[float]) -> tuple[float, float]:
    """Return the product of figures of which none below 0 makes up for another, and their sum where that is nothing."""
    return math.prod(max(0.0, figure) for figure in figures), sum(figures)


def with_interval(figure: Sequence[float] | None, form: str) -> str:
    """Return [mean, low, high] or [mean] as people read it, each number in a format such as ".2f"; nothing of None."""
    if figure is None:
        return ""
    mean, *interval = (format(value, form) for value in figure)
    return f"{mean} ({' to '.join(interval)})" if interval else mean


def pareto_front(values: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of those pairs than which no other one is as large in both and larger in one."""
    return [
        number
        for number, (one, other) in enumerate(values)
        if not any(mine >= one and theirs >= other and (mine > one or theirs > other) for mine, theirs in values)
    ]
