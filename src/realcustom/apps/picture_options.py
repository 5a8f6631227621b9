"""The options of the command that say how a picture is made, by the names of `PictureSettings`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from realcustom.errors import InputError, did_you_mean
from realcustom.provenance import PictureSettings

OPTIONS = {
    "prompt": "prompt",
    "word": "subject_word",
    "occurrence": "occurrence",
    "seed": "seed",
    "steps": "num_inference_steps",
    "scheduler": "scheduler",
    "negative-prompt": "negative_prompt",
    "guidance-scale": "guidance_scale",
    "subject-guidance-scale": "subject_guidance_scale",
    "subject-scale": "subject_scale",
    "mask-scope": "mask_scope",
    "final-mask-scope": "final_mask_scope",
    "mask-binary": "mask_binary",
    "mask-yields": "mask_yields",
    "token-ratio": "token_ratio",
    "guidance": "guidance",
    "mask-frozen-after": "mask_frozen_after",
    "mask-source": "mask_source",
    "guidance-start": "guidance_start",
    "guidance-end": "guidance_end",
    "cache-interval": "cache_interval",
    "width": "width",
    "height": "height",
}
"""Options of the command, and their names in `PictureSettings`."""

FLAGS = tuple(option for option, name in OPTIONS.items() if PictureSettings.model_fields[name].annotation is bool)
"""Those that are true or false."""

MASK_OPTIONS = {"mask": "mask", "mask-mode": "mask_mode"}
"""Those of a mask that is given."""

_ITS_OWN = ("prompt", "word", "seed")
"""Of these every command has its own way."""

_COMMANDS_NAMES = {name: option for option, name in {**OPTIONS, **MASK_OPTIONS}.items() if option != "prompt"}
_NAMED = re.compile(
    r"""(?<!\w)'[^']*'|"[^"]*"|(?<![\w-])(?P<name>"""
    + "|".join(_COMMANDS_NAMES)
    + r""")(?:(?P<value>=)|(?=:|\ (?:must|cannot|is|are|was|\d)\b))"""
)
"""A quoted text, which is left as it is, or the name of a setting of which something is said."""


def setting(option: str, others: Sequence[str] = ()) -> str:
    """Return the name in `PictureSettings` of an option of the command, written with or without its dashes.

    Args:
        option: its name.
        others: options that could also have been meant.

    Raises:
        InputError: there is none.
    """
    name = option.removeprefix("--").replace("_", "-")
    if name not in OPTIONS:
        known = [*OPTIONS, *others]
        hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
        raise InputError(f"there is no option {option!r} of a picture.{hint}")
    return OPTIONS[name]


@contextmanager
def told_by_option(dashes: str = "--") -> Iterator[None]:
    """Let what is wrong with a setting be told by the name of its option, and not by that of the library's argument.

    Args:
        dashes: what options begin with, where they are typed.

    Raises:
        InputError: what was raised inside, in other words.
    """
    try:
        yield
    except InputError as error:
        raise InputError(_NAMED.sub(lambda match: _renamed(match, dashes), str(error))) from error


def _renamed(match: re.Match[str], dashes: str) -> str:
    if match["name"] is None:
        return match[0]
    return f"{dashes}{_COMMANDS_NAMES[match['name']]}{' ' if match['value'] else ''}"


def given_options(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the options whose values are given, each with its name in `PictureSettings`."""
    return {option: name for option, name in OPTIONS.items() if values.get(name) is not None}


def refuse_unread(given: Mapping[str, str], calls: Sequence[Mapping[str, str]], dashes: str = "--") -> None:
    """Check that each option that was given is read in one call at least.

    Args:
        given: options, each with its setting's name.
        calls: of each the settings that it does not read, with the reasons, see `painting.unread_settings`.
        dashes: what options begin with, where they are typed.

    Raises:
        InputError: an option would have no effect.
    """
    unread: dict[str, list[str]] = {}
    for option, name in given.items():
        if all(name in call for call in calls):
            unread.setdefault(calls[0][name], []).append(f"{dashes}{option}")
    if unread:
        told = [f"{' and '.join(options)} would have no effect, because {reason}" for reason, options in unread.items()]
        raise InputError(f"{'; '.join(told)}; leave it out")


def picture_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of how pictures are made, but for prompt, word and seed."""
    return {
        name: getattr(options, option.replace("-", "_")) for option, name in OPTIONS.items() if option not in _ITS_OWN
    }
