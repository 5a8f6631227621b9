"""DreamBench's subjects and sentences, without its pictures (Ruiz et al., 2023; github.com/google/dreambooth, CC BY 4.0)."""

from __future__ import annotations

from collections.abc import Sequence

CLASSES = {
    "backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal", "berry_bowl": "bowl", "can": "can",
    "candle": "candle", "cat": "cat", "cat2": "cat", "clock": "clock", "colorful_sneaker": "sneaker", "dog": "dog",
    "dog2": "dog", "dog3": "dog", "dog5": "dog", "dog6": "dog", "dog7": "dog", "dog8": "dog", "duck_toy": "toy",
    "fancy_boot": "boot", "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy", "pink_sunglasses": "glasses",
    "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon", "robot_toy": "toy", "shiny_sneaker": "sneaker",
    "teapot": "teapot", "vase": "vase", "wolf_plushie": "stuffed animal",
}  # fmt: skip
"""The class word of each subject."""

LIVE = frozenset({"cat", "cat2", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"})
"""The subjects that are alive, and are asked for in clothes instead of in some of the scenes."""

REFERENCES = {
    "backpack": 2, "backpack_dog": 2, "bear_plushie": 3, "berry_bowl": 2, "can": 1, "candle": 2, "cat": 4, "cat2": 2,
    "clock": 3, "colorful_sneaker": 1, "dog": 2, "dog2": 2, "dog3": 5, "dog5": 0, "dog6": 2, "dog7": 1, "dog8": 4,
    "duck_toy": 1, "fancy_boot": 2, "grey_sloth_plushie": 4, "monster_toy": 4, "pink_sunglasses": 4, "poop_emoji": 0,
    "rc_car": 3, "red_cartoon": 0, "robot_toy": 0, "shiny_sneaker": 1, "teapot": 4, "vase": 2, "wolf_plushie": 4,
}  # fmt: skip
"""Which of its pictures, from 0 in the order of their names, is the reference: that of the single-reference list of UNO (Wu et
al., 2025), which others follow."""

PAIRS = (
    ("backpack_dog", "bear_plushie"), ("berry_bowl", "can"), ("candle", "clock"), ("colorful_sneaker", "duck_toy"),
    ("fancy_boot", "grey_sloth_plushie"), ("monster_toy", "pink_sunglasses"), ("poop_emoji", "rc_car"),
    ("red_cartoon", "robot_toy"), ("shiny_sneaker", "teapot"), ("vase", "wolf_plushie"), ("cat", "dog"), ("cat", "dog6"),
    ("cat", "dog8"), ("cat2", "cat"), ("cat2", "dog3"), ("cat2", "dog7"), ("dog", "dog2"), ("dog3", "dog5"),
    ("dog6", "dog7"), ("dog7", "dog8"), ("cat", "backpack"), ("cat2", "bear_plushie"), ("dog", "can"), ("dog2", "clock"),
    ("dog3", "duck_toy"), ("dog5", "grey_sloth_plushie"), ("dog6", "pink_sunglasses"), ("dog7", "rc_car"),
    ("dog8", "robot_toy"), ("dog6", "teapot"),
)  # fmt: skip
"""The pairs of UNO's list of two subjects."""

_SCENES = (
    "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
    "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
    "with a blue house in the background", "on top of a purple rug in a forest",
)  # fmt: skip
_SCENES_OF_THINGS = (
    "with a wheat field in the background", "with a tree and autumn leaves in the background",
    "with the Eiffel Tower in the background", "floating on top of water", "floating in an ocean of milk",
    "on top of green grass with sunflowers around it", "on top of a mirror", "on top of the sidewalk in a crowded street",
    "on top of a dirt road", "on top of a white rug",
)  # fmt: skip
_WORN = (
    "wearing a red hat", "wearing a santa hat", "wearing a rainbow scarf", "wearing a black top hat and a monocle",
    "in a chef outfit", "in a firefighter outfit", "in a police outfit", "wearing pink glasses", "wearing a yellow shirt",
    "in a purple wizard outfit",
)  # fmt: skip
_PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")

SENTENCES = len(_SCENES) + len(_WORN) + len(_PROPERTIES)
"""How many sentences there are about each subject."""

SEEDS = 4
"""How many pictures of each subject and sentence the published protocol asks for."""


def prompts(words: Sequence[str], *, live: bool) -> list[tuple[str, str]]:
    """Return the `SENTENCES` sentences about one subject or two, each as (family, sentence).

    Args:
        words: the subjects' class words.
        live: whether they are asked for in clothes; otherwise in further scenes.
    """
    subject = " and ".join(f"a {word}" for word in words)
    families = [("scene", _SCENES), ("worn", _WORN) if live else ("scene", _SCENES_OF_THINGS)]
    said = [(family, f"{subject} {where}") for family, phrases in families for where in phrases]
    return said + [("property", " and ".join(f"a {adjective} {word}" for word in words)) for adjective in _PROPERTIES]
