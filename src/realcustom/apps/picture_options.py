"""The options of the command that say how a picture is made, by the names of `PictureSettings`."""

from __future__ import annotations

import argparse
from typing import Any

from realcustom.errors import InputError, did_you_mean

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
    "mask-binary": "mask_binary",
    "token-ratio": "token_ratio",
    "width": "width",
    "height": "height",
}
"""Options of the command, and their names in `PictureSettings`."""

_ITS_OWN = ("prompt", "word", "seed")
"""Of these every command has its own way."""


def setting(option: str) -> str:
    """Return the name in `PictureSettings` of an option of the command, written with or without its dashes.

    Raises:
        InputError: there is none.
    """
    name = option.removeprefix("--").replace("_", "-")
    if name not in OPTIONS:
        hint = did_you_mean(name, list(OPTIONS)) or f" There are {', '.join(OPTIONS)}."
        raise InputError(f"there is no option {option!r} of a picture.{hint}")
    return OPTIONS[name]


def picture_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of how pictures are made, but for prompt, word and seed."""
    return {
        name: getattr(options, option.replace("-", "_")) for option, name in OPTIONS.items() if option not in _ITS_OWN
    }
