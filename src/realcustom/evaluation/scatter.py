"""Similarity against control as a drawing: what lies above and to the right of something else is better in both."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

RIGHT, HEIGHT, LEFT, BELOW = 520, 380, 52, 46
"""Where the axes end, in pixels; the legend stands to the right of them, as wide as its longest name."""
LETTER = 7
"""Of the legend, about as wide as that in pixels."""
COLOURS = (
    "#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c92a2a", "#b08900", "#495057", "#3b5bdb", "#c2255c", "#7b4b2a", "#5c940d",
    "#0ca678",
)  # fmt: skip


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Point:
    """One thing that was measured."""

    name: str
    control: Sequence[float]
    """Mean, or mean, low and high."""
    similarity: Sequence[float]
    curve: str
    """Points of one curve are joined in their order and have one colour; the legend says its name."""
    mark: str = ""
    """What is written at the point, unless it would cover what is written at another: where on its curve it is."""


def points_of(rows: Mapping[str, Mapping[str, Any]], control: str, similarity: str) -> list[Point]:
    """Return a point for each of the rows that has both figures.

    Those whose names differ in numbers alone are a curve, in the order of these numbers, of which those that differ are the
    points' marks.
    """
    alike: dict[str, list[str]] = {}
    for row, figures in rows.items():
        if {control, similarity} <= figures.keys():
            alike.setdefault(_NUMBER.sub("#", row), []).append(row)
    points = []
    for names in alike.values():
        numbers = {name: _NUMBER.findall(name) for name in names}
        changing = [place for place, values in enumerate(zip(*numbers.values(), strict=True)) if len(set(values)) > 1]
        for name in sorted(names, key=lambda name: [float(value) for value in numbers[name]]):
            curve = (len(names) > 1 and _curve(name, changing)) or name
            mark = ", ".join(numbers[name][place] for place in changing)
            points.append(Point(name, rows[name][control], rows[name][similarity], curve, mark))
    return points


def _curve(name: str, changing: Sequence[int]) -> str:
    """Return what is alike in the names of a curve's points: a name without the numbers in some places."""
    pieces, places = re.split(f"({_NUMBER.pattern})", name), {2 * place + 1 for place in changing}
    kept = "".join("" if number in places else piece for number, piece in enumerate(pieces))
    return re.sub(r"([-_ ])[-_ ]+", r"\1", kept).strip("-_ ")


def scatter(points: Sequence[Point], control: str, similarity: str) -> str:
    """Return an SVG element with the points, their intervals and their names; nothing without points.

    Args:
        points: what is drawn.
        control: what the axis to the right shows.
        similarity: what the axis upward shows.
    """
    if not points:
        return ""
    width = RIGHT + 44 + LETTER * max(len(one.curve) for one in points)
    across = _Axis([one.control for one in points], LEFT, RIGHT)
    up = _Axis([one.similarity for one in points], HEIGHT - BELOW, 30)
    drawn, marked = "", list[tuple[float, float]]()
    for tick in across.ticks():
        x = across(tick)
        drawn += _line((x, HEIGHT - BELOW + 6), (x, 24), "#e9ecef")
        drawn += f'<text text-anchor="middle" x="{x:.1f}" y="{HEIGHT - 26}">{tick:.2f}</text>'
    for tick in up.ticks():
        y = up(tick)
        drawn += _line((LEFT - 8, y), (RIGHT + 6, y), "#e9ecef")
        drawn += f'<text text-anchor="end" x="{LEFT - 12}" y="{y + 4:.1f}">{tick:.2f}</text>'
    for number, curve in enumerate(dict.fromkeys(one.curve for one in points)):
        colour, own = COLOURS[number % len(COLOURS)], [one for one in points if one.curve == curve]
        places = [(across(one.control[0]), up(one.similarity[0])) for one in own]
        if len(own) > 1:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            drawn += f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        for one, (x, y) in zip(own, places, strict=True):
            for start, end in _whiskers(one, across, up):
                drawn += _line(start, end, colour, ' stroke-opacity=".3"')
            drawn += (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(one.name)}</title></circle>'
            )
            if one.mark and not any(abs(x - left) < 24 and abs(y - top) < 11 for left, top in marked):
                drawn += f'<text x="{x + 6:.1f}" y="{y - 6:.1f}" fill="{colour}">{escape(one.mark)}</text>'
                marked.append((x, y))
        y = 34 + 18 * number
        drawn += f'<rect x="{RIGHT + 22}" y="{y - 4}" width="8" height="8" fill="{colour}"/>'
        drawn += f'<text x="{RIGHT + 36}" y="{y + 4}">{escape(curve)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" font-size="12" '
        'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="white"/>'
        f'{drawn}<text text-anchor="middle" x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 6}">{escape(control)}</text>'
        f'<text x="0" y="14">{escape(similarity)}</text></svg>'
    )


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, more: str = "") -> str:
    return f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" stroke="{colour}"{more}/>'


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
