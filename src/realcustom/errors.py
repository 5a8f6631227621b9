"""The errors that a caller can meet; every message says what was wanted, what was given and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any


class RealCustomError(Exception):
    """The root of every error that this package raises on purpose."""


class InputError(RealCustomError, ValueError):
    """A value given by the caller cannot be used."""


class NotANumber(RealCustomError, FloatingPointError):
    """A computation left the range of its numbers."""


class OutOfMemory(RealCustomError, MemoryError):
    """The device has too little memory for what was asked."""


OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch says, on one device or another, in place of a MemoryError."""


class CheckFailed(RealCustomError):
    """What was to be checked is not as it must be; in what, has been told."""


class WordNotFound(InputError):
    """The prompt does not say the subject's word."""


class WordAmbiguous(InputError):
    """The prompt says the subject's word more than once."""


class WordUnknown(InputError):
    """The text encoder has no token for the subject's word."""


class WordTruncated(InputError):
    """The subject's word lies beyond the tokens that the text encoder reads."""


class CheckpointMismatch(InputError):
    """Tensors on disk are not the tensors that the model needs."""

    def __init__(self, source: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str]) -> None:
        self.source = source
        self.missing, self.unexpected, self.shapes = list(missing), list(unexpected), list(shapes)
        parts = [
            f"{len(names)} {label}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if names
        ]
        super().__init__(f"{source} does not hold the tensors that this model needs; {'; '.join(parts)}.")

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Return what makes it anew where another process has raised it."""
        return type(self), (self.source, self.missing, self.unexpected, self.shapes)


def in_one_line(message: object) -> str:
    """Return a message without what would move a terminal's cursor: foreign names and texts may hold anything.

    Lines follow each other with a blank between; of all else that cannot be shown, the escape is.
    """
    line = re.sub(r"\s*\n\s*", " ", str(message).strip())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ' Did you mean ...?' with the nearest known names, or '' if none is near."""
    near = get_close_matches(word, known, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
