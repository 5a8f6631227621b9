"""Who is in a picture, as the command line tells it: one SUBJECT with its --word, or several --subject."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realcustom.errors import InputError, did_you_mean
from realcustom.options import parse_options
from realcustom.painting import Source
from realcustom.pictures import read_picture
from realcustom.provenance import SubjectSettings
from realcustom.saved_subject import SUFFIX, SavedSubject
from realcustom.subject import read_likeness

FORM = "IMAGE:WORD[:NAME=VALUE...]"

_OPTIONS = ("occurrence", "scale", "mask", "mask-mode", "start", "end", "weight", "box")
"""What can be said of one of several subjects."""


@dataclass(frozen=True)
class Cast:
    """The subjects of a picture, read and ready."""

    sources: list[Source]
    settings: dict[str, Any]
    """What `PictureSettings` says of them."""
    files: Sequence[tuple[str, Path]] = ()
    """Every file that was read, behind what it is."""

    @property
    def word(self) -> str | None:
        """The word of the subject, if there is but one."""
        several = self.settings.get("subjects")
        if several is None:
            return self.settings["subject_word"]
        return several[0].word if len(several) == 1 else None


def read_cast(options: argparse.Namespace) -> Cast:
    """Return who is in a picture.

    Raises:
        InputError: something is missing, said twice or wrong, or a file cannot be read.
    """
    if not options.subjects:
        return _one(options)
    alone = [
        name
        for name, given in {
            "SUBJECT": options.subject, "--word": options.word, "--occurrence": options.occurrence, "--mask": options.mask,
            "--mask-mode": options.mask_mode,
        }.items()
        if given is not None
    ]  # fmt: skip
    if alone:
        raise InputError(
            f"{' and '.join(alone)} cannot be given beside --subject, which says it of each subject; write it as {FORM}"
        )
    told = [_parse(text) for text in options.subjects]
    grouped: dict[tuple[str, Any], list[_Told]] = {}
    for one in told:
        grouped.setdefault((one.word.lower(), one.said.get("occurrence")), []).append(one)
    sources, settings = [], []
    for group in grouped.values():
        source, setting = _subject(group)
        sources.append(source)
        settings.append(setting)
    files = [(f"the picture of {one.word!r}", one.image) for one in told]
    files += [(f"the mask of {one.word!r}", Path(one.said["mask"])) for one in told if "mask" in one.said]
    return Cast(sources, {"subjects": settings}, files)


def _one(options: argparse.Namespace) -> Cast:
    """Return the one SUBJECT of the command line."""
    if options.subject is None:
        raise InputError(f"there is no subject; give its picture before the prompt, or --subject {FORM}")
    if options.mask_mode is not None and options.mask is None:
        raise InputError("--mask-mode was given without --mask, the mask that it is about")
    likeness = read_likeness(options.subject)
    word = options.word
    if word is None and isinstance(likeness, SavedSubject):
        word = likeness.word
    if word is None:
        raise InputError("--word is missing: the word or phrase of the prompt that stands for the subject")
    mask = None if options.mask is None else read_picture(options.mask)
    files = [
        ("the subject's picture", options.subject),
        *([] if options.mask is None else [("the mask", options.mask)]),
    ]
    settings = {"subject_word": word, "occurrence": options.occurrence, "mask_mode": options.mask_mode}
    return Cast([Source([likeness], mask)], settings, files)


@dataclass(frozen=True)
class _Told:
    """One --subject."""

    text: str
    image: Path
    word: str
    said: Mapping[str, str]


def _parse(text: str) -> _Told:
    """Return the parts of IMAGE:WORD:NAME=VALUE..., of which the name of the image may hold colons."""
    rest = text.split(":")
    said: dict[str, str] = {}
    while len(rest) > 1 and "=" in rest[-1]:
        name, value = rest.pop().split("=", 1)
        if name in said:
            raise InputError(f"--subject {text!r} says {name} twice")
        said[name] = value
    unknown = next((name for name in said if name not in _OPTIONS), None)
    if unknown is not None:
        hint = did_you_mean(unknown, _OPTIONS) or f" There are {', '.join(_OPTIONS)}."
        raise InputError(f"--subject {text!r} says {unknown!r}, which can be said of no subject.{hint}")
    whole = ":".join(rest)
    if len(rest) == 1 and whole.endswith(SUFFIX):
        return _Told(text, Path(whole), SavedSubject.load(whole).word, said)
    image, _, word = whole.rpartition(":")
    if not image or not word.strip():
        raise InputError(f"--subject must be written {FORM}, but is {text!r}")
    return _Told(text, Path(image), word, said)


def _subject(group: Sequence[_Told]) -> tuple[Source, SubjectSettings]:
    """Return one subject of all pictures that were given for the same word."""
    first = group[0]
    for one in group[1:]:
        others = [name for name in one.said if name not in ("weight", "occurrence")]
        if others:
            raise InputError(
                f"--subject {one.text!r} is a further picture of {first.word!r}, of which only its weight can be said, and "
                f"not {', '.join(others)}"
            )
    values: dict[str, Any] = {name.replace("-", "_"): value for name, value in first.said.items()}
    mask = values.pop("mask", None)
    values.pop("weight", None)
    if len(group) == 1 and "weight" in first.said:
        raise InputError(
            f"--subject {first.text!r} says the weight of its one picture, which nothing is weighed against"
        )
    if any("weight" in one.said for one in group):
        values["weights"] = [one.said.get("weight", 1.0) for one in group]
    if "box" in values:
        values["box"] = values["box"].split(",")
    settings = parse_options(SubjectSettings, {"word": first.word, **values}, f"--subject {first.text!r}")
    pictures = [read_likeness(one.image) for one in group]
    return Source(pictures, None if mask is None else read_picture(Path(mask))), settings
