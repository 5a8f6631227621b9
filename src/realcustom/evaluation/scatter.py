"""Similarity against control as a drawing: what lies above and to the right of something else is better in both."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, BELOW = 560, 360, 52, 46
COLOURS = ("#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#5c940d", "#495057")


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Point:
    """One thing that was measured."""

    name: str
    control: Sequence[float]
    """Mean, or mean, low and high."""
    similarity: Sequence[float]
    curve: str
    """Points of one curve are joined in their order and have one colour; of more than two, the first and the last are named."""


def points_of(rows: Mapping[str, Mapping[str, Any]], control: str, similarity: str) -> list[Point]:
    """Return a point for each of the rows that has both figures.

    Those whose names differ in numbers alone are a curve, in the order of these numbers.
    """
    points = [
        Point(row, figures[control], figures[similarity], curve=_NUMBER.sub("", row))
        for row, figures in rows.items()
        if {control, similarity} <= figures.keys()
    ]
    curves = list(dict.fromkeys(one.curve for one in points))
    return sorted(
        points, key=lambda one: (curves.index(one.curve), [float(value) for value in _NUMBER.findall(one.name)])
    )


def scatter(points: Sequence[Point], control: str, similarity: str) -> str:
    """Return an SVG element with the points, their intervals and their names; nothing without points.

    Args:
        points: what is drawn.
        control: what the axis to the right shows.
        similarity: what the axis upward shows.
    """
    if not points:
        return ""
    across, up = (
        _Axis([one.control for one in points], LEFT, WIDTH - 130),
        _Axis([one.similarity for one in points], HEIGHT - BELOW, 24),
    )
    curves = list(dict.fromkeys(one.curve for one in points))
    drawn = ""
    for number, curve in enumerate(curves):
        colour, own = COLOURS[number % len(COLOURS)], [one for one in points if one.curve == curve]
        line = " ".join(f"{across(one.control[0]):.1f},{up(one.similarity[0]):.1f}" for one in own)
        drawn += (
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-opacity=".5"/>' if len(own) > 1 else ""
        )
        for place, one in enumerate(own):
            x, y = across(one.control[0]), up(one.similarity[0])
            for (x1, y1), (x2, y2) in _whiskers(one, across, up):
                drawn += f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-opacity=".35"/>'
            name = escape(one.name)
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{name}</title></circle>'
            if place in (0, len(own) - 1):
                drawn += f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{name}</text>'
    ticks = "".join(
        f'<text text-anchor="middle" x="{across(tick):.1f}" y="{HEIGHT - 26}">{tick:.2f}</text>'
        for tick in across.ticks()
    )
    ticks += "".join(f'<text x="0" y="{up(tick) + 4:.1f}">{tick:.2f}</text>' for tick in up.ticks())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-size="12" '
        'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="white"/>'
        f'{drawn}{ticks}<text x="{WIDTH // 3}" y="{HEIGHT - 6}">{escape(control)}</text>'
        f'<text x="0" y="14">{escape(similarity)}</text></svg>'
    )


class _Axis:
    """Where the values of one kind lie in the drawing."""

    def __init__(self, values: Sequence[Sequence[float]], start: float, end: float) -> None:
        every = [value for one in values for value in one]
        self.ends = min(every), max(every)
        self._start, self._length, self._span = start, end - start, max(self.ends[1] - self.ends[0], 1e-6)

    def ticks(self) -> list[float]:
        """Return the round values on the axis, few of them, in order."""
        low, high = self.ends
        step = next(
            (step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / step <= 6), high - low
        )
        return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]

    def __call__(self, value: float) -> float:
        return self._start + (value - self.ends[0]) / self._span * self._length


def _whiskers(one: Point, across: _Axis, up: _Axis) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the ends of the lines that show a point's intervals."""
    x, y = across(one.control[0]), up(one.similarity[0])
    lines = []
    if len(one.control) == 3:
        lines.append(((across(one.control[1]), y), (across(one.control[2]), y)))
    if len(one.similarity) == 3:
        lines.append(((x, up(one.similarity[1])), (x, up(one.similarity[2]))))
    return lines
