"""The places of the stickers world, drawn by code: each is a name, the phrases that captions use, and a painter.

A painter takes a random generator and returns the inside of an SVG of 128 x 128 units, so that every picture of a place
differs while its name stays right.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from realcustom.data.stickers.captions import with_article

Painter = Callable[[np.random.Generator], str]

SIDE = 128

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "orange": (243, 146, 55),
    "yellow": (250, 215, 70),
    "green": (76, 175, 80),
    "blue": (58, 123, 213),
    "purple": (142, 68, 190),
    "pink": (246, 150, 190),
    "brown": (133, 88, 56),
    "grey": (150, 152, 155),
    "black": (28, 28, 30),
    "white": (250, 250, 248),
}
"""The named colours, as sRGB."""


@dataclass(frozen=True)
class Place:
    """One kind of background."""

    name: str
    phrases: tuple[str, ...]
    """Ways to say where the thing is; the first is the plainest."""
    paint: Painter


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{int(min(255, max(0, channel))):02x}" for channel in rgb)


def _near(rng: np.random.Generator, rgb: tuple[int, int, int], spread: float = 12) -> str:
    """Return a colour near `rgb`: brightness and each channel vary by about `spread`."""
    shift = rng.normal(0, spread) + rng.normal(0, spread / 3, 3)
    return _hex((rgb[0] + shift[0], rgb[1] + shift[1], rgb[2] + shift[2]))


def _sky(rng: np.random.Generator, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> str:
    return (
        f'<defs><linearGradient id="sky" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="{_near(rng, top)}"/>'
        f'<stop offset="1" stop-color="{_near(rng, bottom)}"/></linearGradient></defs>'
        '<rect width="128" height="128" fill="url(#sky)"/>'
    )


def _band(rng: np.random.Generator, y: float, colour: str, waviness: float = 3) -> str:
    """Everything below a gently waving line at height `y`."""
    bends = [y + rng.normal(0, waviness) for _ in range(5)]
    path = f"M0 {bends[0]:.1f}" + "".join(
        f" Q{32 * i + 16} {(bends[i] + bends[i + 1]) / 2 + rng.normal(0, waviness):.1f} {32 * i + 32} {bends[i + 1]:.1f}"
        for i in range(4)
    )
    return f'<path d="{path} V128 H0 Z" fill="{colour}"/>'


def _spread(rng: np.random.Generator, count: int, low: float, high: float) -> Iterator[tuple[float, float]]:
    """Yield `count` positions with y in [low, high), x spread evenly with jitter."""
    for i in rng.permutation(count):
        yield (i + rng.uniform(0.1, 0.9)) * SIDE / count, rng.uniform(low, high)


def _circle(x: float, y: float, r: float, colour: str, opacity: float = 1) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{colour}" opacity="{opacity:.2f}"/>'


def _cloud(rng: np.random.Generator, x: float, y: float, colour: str = "#ffffff") -> str:
    r = rng.uniform(5, 9)
    puffs = [(-r, 1.5, 0.7), (0, -1.5, 1.0), (r, 1, 0.75)]
    return "".join(_circle(x + dx, y + dy, r * scale, colour, 0.9) for dx, dy, scale in puffs)


def _clouds(rng: np.random.Generator, low: float = 6, high: float = 34) -> str:
    return "".join(_cloud(rng, x, y) for x, y in _spread(rng, int(rng.integers(1, 4)), low, high))


def _beach(rng: np.random.Generator) -> str:
    sea, sand = rng.uniform(42, 60), rng.uniform(74, 92)
    sun = _circle(rng.uniform(12, 116), rng.uniform(10, 26), rng.uniform(7, 11), "#ffe066")
    return (
        _sky(rng, (105, 190, 245), (200, 232, 250)) + sun + _clouds(rng)
        + f'<rect y="{sea:.1f}" width="128" height="90" fill="{_near(rng, (38, 140, 200))}"/>'
        + _band(rng, sand - 4, "#ffffff", 2) + _band(rng, sand, _near(rng, (240, 214, 150)), 2)
    )  # fmt: skip


def _meadow(rng: np.random.Generator) -> str:
    hill, grass = rng.uniform(50, 66), rng.uniform(72, 88)
    petals = ["#ffffff", "#ffd54f", "#f48fb1", "#e57373"]
    flowers = "".join(
        _circle(x, y, rng.uniform(1.5, 2.6), petals[rng.integers(4)])
        for x, y in _spread(rng, int(rng.integers(6, 14)), grass + 6, 126)
    )
    return (
        _sky(rng, (120, 200, 250), (215, 240, 252)) + _clouds(rng)
        + _band(rng, hill, _near(rng, (120, 190, 90)), 6) + _band(rng, grass, _near(rng, (92, 170, 66)), 3) + flowers
    )  # fmt: skip


def _snow(rng: np.random.Generator) -> str:
    ground = rng.uniform(66, 86)
    firs = "".join(
        f'<path d="M{x:.1f} {ground - h:.1f} l{h * 0.32:.1f} {h:.1f} h{-h * 0.64:.1f} z" fill="{_near(rng, (86, 130, 120))}"/>'
        for x, _ in _spread(rng, int(rng.integers(2, 6)), 0, 1)
        for h in [rng.uniform(16, 32)]
    )
    flakes = "".join(_circle(x, y, rng.uniform(1, 2), "#ffffff") for x, y in _spread(rng, 22, 2, 120))
    return (
        _sky(rng, (158, 182, 208), (214, 226, 238)) + firs
        + _band(rng, ground, _near(rng, (240, 245, 250), 5), 4) + flakes
    )  # fmt: skip


def _night(rng: np.random.Generator) -> str:
    moon_x, moon_y, r = rng.uniform(14, 114), rng.uniform(12, 30), rng.uniform(7, 11)
    sky = _near(rng, (20, 26, 66), 6)
    stars = "".join(_circle(x, y, rng.uniform(0.6, 1.3), "#fff8dc") for x, y in _spread(rng, 26, 2, 84))
    moon = _circle(moon_x, moon_y, r, "#fdf3c0") + _circle(moon_x + r * 0.45, moon_y - r * 0.2, r * 0.85, sky)
    return (
        f'<rect width="128" height="128" fill="{sky}"/>' + stars + moon
        + _band(rng, rng.uniform(88, 104), _near(rng, (18, 44, 48), 5), 6)
    )  # fmt: skip


def _desert(rng: np.random.Generator) -> str:
    dune = rng.uniform(52, 66)
    return (
        _sky(rng, (250, 200, 130), (253, 232, 190))
        + _circle(rng.uniform(14, 114), rng.uniform(12, 30), rng.uniform(8, 12), "#fff3c4")
        + _band(rng, dune, _near(rng, (226, 160, 88)), 8) + _band(rng, dune + 20, _near(rng, (214, 142, 70)), 7)
        + _band(rng, dune + 42, _near(rng, (198, 124, 56)), 6)
    )  # fmt: skip


def _underwater(rng: np.random.Generator) -> str:
    bubbles = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{rng.uniform(1.5, 4):.1f}" fill="#bfeaff" opacity="0.45"/>'
        for x, y in _spread(rng, int(rng.integers(8, 16)), 4, 104)
    )
    weeds = "".join(
        f'<path d="M{x:.1f} 122 q{rng.uniform(-12, 12):.1f} {-h / 2:.1f} 0 {-h:.1f}" stroke="{_near(rng, (30, 140, 90))}" '
        'stroke-width="4" stroke-linecap="round" fill="none"/>'
        for x, _ in _spread(rng, int(rng.integers(3, 8)), 0, 1)
        for h in [rng.uniform(16, 44)]
    )
    return (
        _sky(rng, (52, 168, 205), (12, 66, 128)) + weeds + _band(rng, rng.uniform(108, 116), _near(rng, (196, 178, 130)), 2)
        + bubbles
    )  # fmt: skip


def _space(rng: np.random.Generator) -> str:
    stars = "".join(_circle(x, y, rng.uniform(0.5, 1.2), "#ffffff") for x, y in _spread(rng, 40, 1, 127))
    hues = [(226, 120, 80), (120, 150, 230), (200, 170, 110), (150, 210, 180)]
    planets = ""
    for x, y in _spread(rng, int(rng.integers(1, 4)), 8, 120):
        r = rng.uniform(6, 15)
        planets += _circle(x, y, r, _near(rng, hues[rng.integers(4)]))
        if rng.random() < 0.4:
            planets += (
                f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{r * 1.7:.1f}" ry="{r * 0.45:.1f}" fill="none" stroke="#e8d9b0" '
                f'stroke-width="2" transform="rotate({rng.uniform(-30, 30):.0f} {x:.1f} {y:.1f})"/>'
            )
    return f'<rect width="128" height="128" fill="{_near(rng, (12, 8, 30), 4)}"/>' + stars + planets


def _forest(rng: np.random.Generator) -> str:
    ground = rng.uniform(86, 100)
    trees = ""
    for x, _ in _spread(rng, int(rng.integers(5, 9)), 0, 1):
        width, crown = rng.uniform(5, 8), rng.uniform(13, 20)
        trees += (
            f'<rect x="{x - width / 2:.1f}" y="20" width="{width:.1f}" height="{ground - 16:.1f}" '
            f'fill="{_near(rng, (96, 66, 44), 8)}"/>' + _circle(x, rng.uniform(8, 40), crown, _near(rng, (44, 108, 54)))
        )
    return (
        f'<rect width="128" height="128" fill="{_near(rng, (150, 190, 140))}"/>' + trees
        + _band(rng, ground, _near(rng, (62, 98, 48), 8), 3)
    )  # fmt: skip


def _city(rng: np.random.Generator) -> str:
    walls = [(120, 130, 150), (164, 120, 104), (96, 110, 138), (180, 164, 140)]
    street, x, houses = rng.uniform(102, 112), 0.0, ""
    while x < SIDE:
        width, top = rng.uniform(18, 30), rng.uniform(14, 62)
        houses += f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="120" fill="{_near(rng, walls[rng.integers(4)])}"/>'
        columns, lit = int(width // 8), "#ffe9a8" if rng.random() < 0.6 else "#cfe4f2"
        for row in range(int((street - top) // 12)):
            for column in range(columns):
                left = x + (column + 0.5) * width / columns - 2
                houses += f'<rect x="{left:.1f}" y="{top + 6 + 12 * row:.1f}" width="4" height="6" fill="{lit}"/>'
        x += width
    return (
        _sky(rng, (150, 200, 240), (225, 236, 245)) + houses
        + f'<rect y="{street:.1f}" width="128" height="30" fill="{_near(rng, (86, 88, 92), 6)}"/>'
        + f'<rect y="{street:.1f}" width="128" height="3" fill="#c9c9c4"/>'
    )  # fmt: skip


def _room(rng: np.random.Generator) -> str:
    floor = rng.uniform(84, 98)
    papers = [(236, 214, 190), (200, 220, 226), (226, 206, 222), (214, 224, 196)]
    left = rng.uniform(8, 80)
    window = (
        f'<rect x="{left:.1f}" y="14" width="34" height="34" fill="#f7f4ec"/>'
        f'<rect x="{left + 3:.1f}" y="17" width="28" height="28" fill="#a9d8f5"/>'
        f'<path d="M{left + 17:.1f} 17 v28 M{left + 3:.1f} 31 h28" stroke="#f7f4ec" stroke-width="2.5"/>'
    )
    boards = "".join(
        f'<path d="M{64 + (x - 64) * 0.7:.1f} {floor:.1f} L{64 + (x - 64) * 1.3:.1f} 128" stroke="#00000030" stroke-width="1"/>'
        for x in range(0, 129, 16)
    )
    return (
        f'<rect width="128" height="128" fill="{_near(rng, papers[rng.integers(4)], 6)}"/>' + window
        + f'<rect y="{floor:.1f}" width="128" height="50" fill="{_near(rng, (168, 116, 72), 10)}"/>' + boards
        + f'<rect y="{floor - 3:.1f}" width="128" height="3.5" fill="#f7f4ec"/>'
    )  # fmt: skip


def _mountains(rng: np.random.Generator) -> str:
    peaks = ""
    for x, y in _spread(rng, int(rng.integers(2, 5)), 18, 46):
        half = (100 - y) * rng.uniform(0.55, 0.8)
        cap = (100 - y) * 0.25
        peaks += (
            f'<path d="M{x:.1f} {y:.1f} l{half:.1f} {100 - y:.1f} h{-2 * half:.1f} z" fill="{_near(rng, (122, 128, 150), 10)}"/>'
            f'<path d="M{x:.1f} {y:.1f} l{half * 0.25:.1f} {cap:.1f} h{-half * 0.5:.1f} z" fill="#ffffff"/>'
        )
    return (
        _sky(rng, (110, 180, 240), (214, 234, 250)) + _clouds(rng, 4, 18) + peaks
        + _band(rng, rng.uniform(88, 98), _near(rng, (96, 150, 92)), 4)
    )  # fmt: skip


def _sunset(rng: np.random.Generator) -> str:
    horizon = rng.uniform(74, 92)
    x, r = rng.uniform(30, 98), rng.uniform(13, 19)
    return (
        _sky(rng, (110, 60, 130), (252, 140, 70)) + _circle(x, horizon - r * 0.35, r, "#ffd76a")
        + f'<rect y="{horizon:.1f}" width="128" height="60" fill="{_near(rng, (60, 42, 84), 6)}"/>'
        + f'<rect x="{x - r:.1f}" y="{horizon + 4:.1f}" width="{2 * r:.1f}" height="2.5" fill="#ffb55a"/>'
        + f'<rect x="{x - r * 0.6:.1f}" y="{horizon + 11:.1f}" width="{1.2 * r:.1f}" height="2.5" fill="#ffb55a"/>'
    )  # fmt: skip


def _plain(colour: str) -> Painter:
    return lambda rng: f'<rect width="128" height="128" fill="{_near(rng, COLOURS[colour], 7)}"/>'


def _pale(colour: str) -> tuple[int, int, int]:
    """The lighter partner of a colour in a pattern."""
    red, green, blue = (round(255 - (255 - channel) * 0.25) for channel in COLOURS[colour])
    return red, green, blue


def _stripes(colour: str) -> Painter:
    def paint(rng: np.random.Generator) -> str:
        period, angle, paint_with = rng.uniform(16, 28), rng.uniform(-90, 90), _near(rng, COLOURS[colour], 7)
        bars = "".join(
            f'<rect x="{x:.1f}" y="-128" width="{period / 2:.1f}" height="384" fill="{paint_with}"/>'
            for x in np.arange(-128, 256, period)
        )
        ground = _near(rng, _pale(colour), 4)
        return f'<rect width="128" height="128" fill="{ground}"/><g transform="rotate({angle:.0f} 64 64)">{bars}</g>'

    return paint


def _dots(colour: str) -> Painter:
    def paint(rng: np.random.Generator) -> str:
        step, paint_with = rng.uniform(18, 28), _near(rng, COLOURS[colour], 7)
        radius, dots = step * rng.uniform(0.24, 0.32), ""
        for row in range(-1, math.ceil(SIDE / step) + 1):
            for column in range(-1, math.ceil(SIDE / step) + 1):
                dots += _circle((column + 0.5 * (row % 2)) * step + step / 3, row * step + step / 3, radius, paint_with)
        return f'<rect width="128" height="128" fill="{_near(rng, _pale(colour), 4)}"/>' + dots

    return paint


_PATTERN_COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")

PLACES: tuple[Place, ...] = (
    Place("beach", ("on the beach", "on a sandy beach", "at the seaside"), _beach),
    Place("meadow", ("in a meadow", "on the grass", "in a green field"), _meadow),
    Place("snow", ("in the snow", "in a snowy landscape", "on a winter day"), _snow),
    Place("night", ("at night", "under the night sky", "in the moonlight"), _night),
    Place("desert", ("in the desert", "among the sand dunes", "in a hot desert"), _desert),
    Place("underwater", ("under the sea", "under water", "at the bottom of the ocean"), _underwater),
    Place("space", ("in outer space", "in space", "among the planets"), _space),
    Place("forest", ("in the forest", "in the woods", "among the trees"), _forest),
    Place("city", ("in the city", "on a city street", "in front of tall buildings"), _city),
    Place("room", ("in a room", "indoors", "inside a house"), _room),
    Place("mountains", ("in the mountains", "in front of mountains", "near a snowy peak"), _mountains),
    Place("sunset", ("at sunset", "in the evening light", "at dusk"), _sunset),
    *(
        Place(colour, (f"on {with_article(colour)} background", f"in front of {with_article(colour)} wall", f"on {colour}"), _plain(colour))
        for colour in COLOURS
    ),
    *(
        Place(f"{c} stripes", (f"on {c} stripes", f"on a background of {c} stripes", f"in front of {c} striped wallpaper"),
              _stripes(c))
        for c in _PATTERN_COLOURS
    ),
    *(
        Place(f"{c} polka dots", (f"on {c} polka dots", f"on a background of {c} polka dots", f"in front of {c} dotted wallpaper"),
              _dots(c))
        for c in _PATTERN_COLOURS
    ),
)  # fmt: skip


def paint(place: Place, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return one picture of `place`, `[side, side, 3]` uint8."""
    import resvg_py

    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">{place.paint(rng)}</svg>'
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))))
    return np.asarray(picture.convert("RGB"))
