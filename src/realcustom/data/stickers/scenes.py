"""Scenes: a drawing of a thing in a place, with a caption, the thing's true region, and a second view of the same subject.

Scene `number` of a source depends on the source's seed and on `number` alone, so a run that was killed can go on exactly
where it stopped, and two methods can be compared on the very same pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt, model_validator

from realcustom.data.examples import Example, Frame
from realcustom.data.stickers.backgrounds import COLOURS, PLACES, Place, paint
from realcustom.data.stickers.captions import caption
from realcustom.data.stickers.drawings import DrawingStore, synonyms
from realcustom.options import Options, PositiveShare, Share

HUES: dict[str, float] = {
    "red": 0,
    "orange": 28,
    "yellow": 52,
    "green": 125,
    "blue": 215,
    "purple": 275,
    "pink": 325,
}
"""The hue that each colour word means for a recoloured thing, in degrees."""


Reference = Literal["self", "other", "drawing"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a drawing's side."""


@dataclass(frozen=True)
class Pose:
    """How a drawing lies in the picture."""

    x: float
    """Centre, as a share of the width."""
    y: float
    """Centre, as a share of the height."""
    size: float
    """The drawing's longer side as a share of the picture's side."""
    angle: float
    """Counter-clockwise, in degrees."""
    mirrored: bool

    @property
    def frame(self) -> Frame:
        """Centre y, centre x and size."""
        return self.y, self.x, self.size


@dataclass(frozen=True)
class Fit:
    """How a drawing is worn by another."""

    width: float
    """Its width, as a share of the wearer's."""
    height: float
    """Where it is, from the wearer's top downward, as a share of the wearer's height."""
    part: float
    """Which part of it is there, from its own top downward: 0.5 its middle, 1 its lower edge."""


WORN = {
    "top hat": Fit(0.6, 0.08, 1.0),
    "crown": Fit(0.55, 0.08, 1.0),
    "sunglasses": Fit(0.7, 0.33, 0.5),
    "glasses": Fit(0.7, 0.33, 0.5),
}
"""What things can wear, and how."""


POSITIONS: dict[str, tuple[str, float, float]] = {
    "left": ("on the left", 0.27, 0.5),
    "right": ("on the right", 0.73, 0.5),
    "top": ("at the top", 0.5, 0.27),
    "bottom": ("at the bottom", 0.5, 0.73),
}
"""The parts of a picture that a caption can name: how it says so, and the middle of each, across and down."""


@dataclass(frozen=True)
class Plan:
    """What a scene is to show."""

    drawing: int
    """Row of the thing's drawing in the source's store."""
    word: str
    """The phrase that names the thing."""
    colour: str
    """The colour that the caption says of the thing; empty if it says none."""
    hue: float
    """How far the drawing's hue is turned, in degrees."""
    place: Place
    phrases: Sequence[str]
    """Those that say the place and none of the thing's words."""
    pose: Pose
    worn: int | None = None
    """Row of what the thing wears."""
    beside: int | None = None
    """Row of what is beside it."""
    position: str = ""
    """The part of the picture that the caption says; empty if it says none."""


@dataclass(frozen=True)
class Scene:
    """One picture with everything that is known about it."""

    picture: np.ndarray
    """`[h, w, 3]` uint8."""
    region: np.ndarray
    """`[h, w]` float32 in [0, 1]: how much of each pixel the thing covers."""
    foreground: np.ndarray
    """Likewise of the thing, of what it wears and of what is beside it."""
    caption: str
    word: str
    """The phrase in the caption that names the thing."""
    place: str
    pose: Pose
    drawing: int
    """Row of the drawing in the source's store."""
    colour: str
    """The colour that the caption says of the thing; empty if it says none."""
    hue: float
    """How far the drawing's hue was turned, in degrees."""
    worn: str
    """What the thing wears; empty if nothing."""
    beside: str
    """What else is in the picture; empty if nothing."""
    position: str
    """The part of the picture that the caption says; empty if it says none."""


class SceneOptions(Options):
    """What scenes look like and how their captions speak."""

    smallest: PositiveShare = 0.45
    """Smallest size of a thing, as a share of the picture's side."""
    largest: PositiveShare = 0.85
    """Largest size of a thing, as a share of the picture's side."""
    centre_spread: NonNegativeFloat | None = None
    """Standard deviation of a thing's centre from the picture's middle, as a share of the picture's side, where the caption
    says no position; anywhere where the thing fits if null."""
    smallest_portrait: PositiveShare = 0.7
    """Smallest size of a thing in a reference, as a share of the picture's side."""
    largest_portrait: PositiveShare = 0.95
    """Largest size of a thing in a reference, as a share of the picture's side."""
    common_share: Share = 0.5
    """Share of scenes whose thing is one of the well-known nouns."""
    kind_share: Share = 0.15
    """Share of captions that name the thing by its kind ("an animal")."""
    thing_share: Share = 0.05
    """Share of captions that say just "thing"."""
    synonym_share: Share = 0.0
    """Share of captions, of those whose word for the thing has other ones, that say one of these ("a hound")."""
    tilt: NonNegativeFloat = 8.0
    """Standard deviation of the angle by which a thing is turned, in degrees; what is beside it half as much."""
    mirrored_share: Share = 0.5
    """Share of scenes whose thing is mirrored, and with it its reference; likewise of what is beside it. With `centre_spread`
    that stands to the thing's left in as many scenes, and else to its right."""
    colour_share: Share = 0.1
    """Share of scenes whose thing is recoloured and whose caption says so ("a purple robot")."""
    hue_share: Share = 0.0
    """Share of scenes whose thing is recoloured while the caption does not say so."""
    worn_share: Share = 0.0
    """Share of scenes whose thing wears a hat, a crown or glasses, as the caption says; the reference never does."""
    beside_share: Share = 0.0
    """Share of scenes with a second, well-known thing beside the first, as the caption says."""
    position_share: Share = 0.0
    """Share of scenes, of those with nothing worn or beside, whose caption says in which part of the picture the thing is."""
    backgrounds: PositiveInt = 48
    """How many pictures of each place are painted when the source starts."""

    @model_validator(mode="after")
    def _fit_together(self) -> SceneOptions:
        for low, high in (("smallest", "largest"), ("smallest_portrait", "largest_portrait")):
            least, most = getattr(self, low), getattr(self, high)
            if least > most:
                raise ValueError(f"{low} ({least}) is larger than {high} ({most})")
        for either, other in (
            ("kind_share", "thing_share"), ("colour_share", "hue_share"), ("worn_share", "beside_share"),
        ):  # fmt: skip
            first, second = getattr(self, either), getattr(self, other)
            if first + second > 1:
                raise ValueError(f"{either} ({first}) and {other} ({second}) together exceed 1; no scene is of both")
        return self


def shift_hue(rgba: np.ndarray, degrees: float) -> np.ndarray:
    """Return `rgba [h, w, 4]` with every hue turned by `degrees`."""
    picture = Image.fromarray(rgba)
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).copy()
    hsv[..., 0] += np.uint8(round(degrees / 360 * 256) % 256)
    turned = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return np.concatenate([turned, rgba[..., 3:]], axis=-1)


def place_drawing(canvas: np.ndarray, rgba: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Lay a drawing over a picture.

    Args:
        canvas: the picture, `[h, w, 3]` uint8; it is not changed.
        rgba: the drawing, `[k, k, 4]` uint8.
        pose: where and how.

    Returns:
        The new picture, `[h, w, 3]` uint8, and how much of each pixel the drawing covers, `[h, w]` float32 in [0, 1].
    """
    height, width = canvas.shape[:2]
    patch = Image.fromarray(rgba).convert("RGBa")
    if pose.mirrored:
        patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = max(1, round(pose.size * min(height, width)))
    patch = patch.resize((side, side), Image.Resampling.LANCZOS).rotate(
        pose.angle, Image.Resampling.BICUBIC, expand=True
    )
    pixels = np.asarray(patch, np.float32)
    top, left = round(pose.y * height - patch.height / 2), round(pose.x * width - patch.width / 2)
    rows = slice(max(0, top), min(height, top + patch.height))
    columns = slice(max(0, left), min(width, left + patch.width))
    seen = pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    region = np.zeros((height, width), np.float32)
    region[rows, columns] = seen[..., 3] / 255
    picture = canvas.astype(np.float32) * (1 - region[..., None])
    picture[rows, columns] += seen[..., :3]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), region


def ink_box(rgba: np.ndarray) -> Box:
    """Return the part of a drawing `[k, k, 4]` that is more solid than transparent; all of it if nothing is."""
    solid = rgba[..., 3] > 127
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, 1.0, 1.0
    height, width = solid.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def worn_pose(wearer: Pose, wearer_box: Box, worn_box: Box, fit: Fit) -> Pose:
    """Return how a worn drawing lies in the picture: fitted to the wearer, turned and mirrored with it."""
    left, top, right, bottom = wearer_box
    worn_left, worn_top, worn_right, worn_bottom = worn_box
    scale = fit.width * (right - left) / (worn_right - worn_left)
    # The point of the worn drawing that meets the wearer, from the worn drawing's middle; then both from the wearer's middle.
    meets = (worn_left + worn_right) / 2 - 0.5, worn_top + fit.part * (worn_bottom - worn_top) - 0.5
    across = (left + right) / 2 - 0.5 - scale * meets[0]
    down = top + fit.height * (bottom - top) - 0.5 - scale * meets[1]
    across = -across if wearer.mirrored else across
    angle = np.deg2rad(wearer.angle)
    return Pose(
        x=float(wearer.x + wearer.size * (across * np.cos(angle) + down * np.sin(angle))),
        y=float(wearer.y + wearer.size * (down * np.cos(angle) - across * np.sin(angle))),
        size=wearer.size * scale,
        angle=wearer.angle,
        mirrored=wearer.mirrored,
    )


def with_headroom(wearer: Pose, wearer_box: Box, worn_box: Box, fit: Fit) -> tuple[Pose, Pose]:
    """Return the wearer's pose and the worn drawing's, both smaller and lower if the latter would leave the picture above."""
    smaller = replace(wearer, size=min(wearer.size, 0.65))
    on_it = worn_pose(smaller, wearer_box, worn_box, fit)
    missing = max(0.0, 0.5 * on_it.size - on_it.y)
    return replace(smaller, y=smaller.y + missing), replace(on_it, y=on_it.y + missing)


BARE = Pose(0.5, 0.5, 1.0, 0.0, mirrored=False)


def bare(rgba: np.ndarray, side: int) -> np.ndarray:
    """Return a drawing alone on white, filling a square of `side` pixels, `[side, side, 3]` uint8."""
    white = np.full((side, side, 3), 255, np.uint8)
    return place_drawing(white, rgba, BARE)[0]


class SceneSource:
    """An endless, seekable source of scenes.

    Args:
        store: the drawings that may occur.
        options: what scenes look like.
        seed: another seed, other scenes.
        side: width and height of the pictures, in pixels.
        reference: what conditions on the subject: the picture itself, another picture of it, or the bare drawing.
        reference_side: width and height of other pictures and bare drawings; those of the pictures if not given.
    """

    def __init__(
        self,
        store: DrawingStore,
        options: SceneOptions,
        *,
        seed: int,
        side: int = 128,
        reference: Reference = "self",
        reference_side: int | None = None,
    ) -> None:
        self.reference_side = reference_side or side
        self.store, self.options, self.seed, self.reference = store, options, seed, reference
        self._common = np.array([row for row, drawing in enumerate(store.drawings) if drawing.common], int)
        self._worn = [row for row, drawing in enumerate(store.drawings) if drawing.noun in WORN]
        self.side, painted = side, max(side, self.reference_side)
        painter = np.random.default_rng([seed, 0])
        self._backgrounds = {
            place.name: [paint(place, painter, painted) for _ in range(options.backgrounds)] for place in PLACES
        }
        weights = np.array([2.0 if " " not in place.name and place.name not in COLOURS else 1.0 for place in PLACES])
        self._place_weights = weights / weights.sum()

    def __getitem__(self, number: int) -> Example:
        """Return scene `number` as a training example."""
        rng = np.random.default_rng([self.seed, 1, number])
        scene, subject = self.render(self._plan(rng), rng)
        facts = self.facts(scene)
        shown, frame = scene.picture, scene.pose.frame
        if self.reference == "other":
            elsewhere = self.place(rng)
            facts["reference_place"] = elsewhere.name
            shown, frame = self.portrait(subject, elsewhere, rng, mirrored=scene.pose.mirrored)
        elif self.reference == "drawing":
            shown, frame = bare(subject, self.reference_side), BARE.frame
        frames = (scene.pose.frame, frame)
        return Example(scene.picture, scene.caption, scene.word, shown, scene.region, scene.foreground, frames, facts)

    def scene(self, number: int) -> Scene:
        """Return scene `number` with everything that is known about it."""
        rng = np.random.default_rng([self.seed, 1, number])
        return self.render(self._plan(rng), rng)[0]

    def facts(self, scene: Scene) -> dict[str, str]:
        """Return what is known of a scene, by name, as examples hold it."""
        drawing = self.store.drawings[scene.drawing]
        extras = {"worn": scene.worn, "beside": scene.beside, "position": scene.position}
        return {
            "place": scene.place, "colour": scene.colour, "hue": f"{scene.hue:.0f}",
            **{name: value for name, value in extras.items() if value},
            "noun": drawing.noun, "style": drawing.style,
        }  # fmt: skip

    def portrait(
        self, rgba: np.ndarray, place: Place, rng: np.random.Generator, *, mirrored: bool
    ) -> tuple[np.ndarray, Frame]:
        """Return a picture of a drawing as people photograph a subject, and its frame there.

        It is large, upright and in the middle; its left stays its left, if `mirrored` is that of its other pictures.
        """
        size = rng.uniform(self.options.smallest_portrait, self.options.largest_portrait)
        x, y = rng.normal(0.5, 0.02, 2)
        pose = Pose(x, y, size, rng.normal(0, 3), mirrored)
        return place_drawing(self._background(rng, place, self.reference_side), rgba, pose)[0], pose.frame

    def place(self, rng: np.random.Generator) -> Place:
        """Return a place, those with names of their own twice as often as colours."""
        return PLACES[rng.choice(len(PLACES), p=self._place_weights)]

    def said_place(self, rng: np.random.Generator, *words: str) -> tuple[Place, list[str]]:
        """Return a place, and those of its phrases that say none of `words` themselves, so that a caption says them once."""
        while True:
            place = self.place(rng)
            if phrases := [phrase for phrase in place.phrases if not set(words) & set(phrase.split())]:
                return place, phrases

    def _background(self, rng: np.random.Generator, place: Place, side: int) -> np.ndarray:
        picture = self._backgrounds[place.name][rng.integers(self.options.backgrounds)]
        picture = picture[:, ::-1] if rng.random() < 0.5 else picture
        return picture if len(picture) == side else np.asarray(Image.fromarray(picture).resize((side, side)))

    def pose(self, rng: np.random.Generator) -> Pose:
        """Return how a thing lies in a picture of which nobody has said anything."""
        size = rng.uniform(self.options.smallest, self.options.largest)
        # The thing may leave the picture by a tenth of its size.
        low, high = 0.4 * size, 1 - 0.4 * size
        if self.options.centre_spread is None:
            x, y = rng.uniform(low, high, 2)
        else:
            x, y = np.clip(rng.normal(0.5, self.options.centre_spread, 2), low, high)
        return Pose(x, y, size, rng.normal(0, self.options.tilt), rng.random() < self.options.mirrored_share)

    def _plan(self, rng: np.random.Generator) -> Plan:
        """Return what a scene is to show."""
        options = self.options
        common = len(self._common) > 0 and rng.random() < options.common_share
        row = int(self._common[rng.integers(len(self._common))] if common else rng.integers(len(self.store)))
        drawing = self.store.drawings[row]
        naming = rng.random()
        word = drawing.noun
        if naming < options.thing_share:
            word = "thing"
        elif naming < options.thing_share + options.kind_share:
            word = drawing.kind
        if options.synonym_share and rng.random() < options.synonym_share:
            word = str(rng.choice(synonyms().get(word, [word])))
        colouring, colour, turn = rng.random(), "", 0.0
        if not np.isnan(self.store.hues[row]) and colouring < options.colour_share + options.hue_share:
            if colouring < options.colour_share:
                colour = str(rng.choice([name for name in HUES if name != word]))
                target = HUES[colour] + rng.normal(0, 5)
            else:
                target = rng.uniform(0, 360)
            turn = float(target - self.store.hues[row])
        place, phrases = self.said_place(rng, word)
        pose, names = self.pose(rng), {*word.split(), *drawing.noun.split()}
        worn, beside = self._extras(rng, names)
        if beside is not None and options.centre_spread is not None:
            # From the middle of the picture it would hide what is beside it.
            x = 0.38 if rng.random() < 1 - options.mirrored_share else 0.62
            pose = replace(pose, x=x, size=min(pose.size, rng.uniform(0.5, 0.65)))
        position = ""
        if worn is None and beside is None and options.position_share and rng.random() < options.position_share:
            said = names.union(*(phrase.split() for phrase in phrases))
            position = str(rng.choice([name for name in POSITIONS if name not in said]))
            pose = self.positioned(pose, position, rng)
        return Plan(row, word, colour, turn, place, phrases, pose, worn, beside, position)

    def positioned(self, pose: Pose, position: str, rng: np.random.Generator) -> Pose:
        """Return a pose moved into a part of the picture, see `POSITIONS`, and no larger than fits there."""
        _, x, y = POSITIONS[position]
        size = min(pose.size, rng.uniform(0.4, 0.55))
        return replace(pose, x=x + rng.normal(0, 0.02), y=y + rng.normal(0, 0.02), size=size)

    def render(self, plan: Plan, rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
        """Return a scene, and its thing as a reference shows it.

        Where the caption says another colour than the drawing's, the reference keeps the drawing's: the text decides.
        """
        drawn, pose = self.store.pixels[plan.drawing], plan.pose
        rgba = shift_hue(drawn, plan.hue) if plan.hue else drawn
        subject = drawn if plan.colour else rgba
        canvas = self._background(rng, plan.place, self.side)
        foreground = np.zeros(canvas.shape[:2], np.float32)
        if plan.beside is not None:
            canvas, foreground = place_drawing(canvas, self.store.pixels[plan.beside], self._beside(rng, pose))
        if plan.worn is None:
            picture, region = place_drawing(canvas, rgba, pose)
            foreground = np.maximum(foreground, region)
        else:
            fit, item = WORN[self.store.drawings[plan.worn].noun], self.store.pixels[plan.worn]
            pose, on_it = with_headroom(pose, ink_box(rgba), ink_box(item), fit)
            bare_picture, region = place_drawing(canvas, rgba, pose)
            picture, covered = place_drawing(bare_picture, item, on_it)
            foreground = np.maximum(region, covered)
            region = region * (1 - covered)
        where = plan.phrases[0] if rng.random() < 0.5 else str(rng.choice(plan.phrases))
        extras = {
            name: "" if other is None else self.store.drawings[other].noun
            for name, other in (("worn", plan.worn), ("beside", plan.beside))
        }
        thing = f"{plan.colour} {plan.word}" if plan.colour else plan.word
        position = POSITIONS[plan.position][0] if plan.position else ""
        said_so = caption(thing, where, rng, **extras, position=position)
        scene = Scene(
            picture, region, foreground, said_so, plan.word, plan.place.name, pose, plan.drawing, plan.colour, plan.hue,
            **extras, position=plan.position,
        )  # fmt: skip
        return scene, subject

    def _extras(self, rng: np.random.Generator, names: set[str]) -> tuple[int | None, int | None]:
        """Return the rows of what the thing wears and of what is beside it, whose nouns say none of its names."""
        options = self.options
        if not options.worn_share + options.beside_share:
            return None, None
        chosen = rng.random()
        if chosen < options.worn_share:
            rows = [row for row in self._worn if names.isdisjoint(self.store.drawings[row].noun.split())]
            return (int(rng.choice(rows)) if rows else None), None
        if chosen < options.worn_share + options.beside_share:
            rows = [row for row in self._common if names.isdisjoint(self.store.drawings[row].noun.split())]
            return None, (int(rng.choice(rows)) if rows else None)
        return None, None

    def _beside(self, rng: np.random.Generator, pose: Pose) -> Pose:
        """Return where a smaller thing stands beside one, on the side where there is more room."""
        size = pose.size * rng.uniform(0.45, 0.65)
        away = 0.45 * (pose.size + size)
        x = pose.x - away if pose.x > 0.5 else pose.x + away
        x = float(np.clip(x, 0.4 * size, 1 - 0.4 * size))
        angle, mirrored = rng.normal(0, self.options.tilt / 2), rng.random() < self.options.mirrored_share
        return Pose(x, pose.y + (pose.size - size) / 2, size, angle, mirrored)
