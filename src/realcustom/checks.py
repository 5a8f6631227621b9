"""Checks of what a caller gives, each with a message that says what was wanted and what was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from realcustom.errors import CheckpointMismatch, InputError

LARGEST = 1000.0
"""Beyond it no guidance makes anything but noise, and float16 overflows."""


def sentences(name: str, given: Any) -> list[str]:
    """Return one sentence or several as a list.

    Raises:
        InputError: it is something else.
    """
    found = [given] if isinstance(given, str) else list(given) if isinstance(given, (list, tuple)) else []
    if not found or not all(isinstance(sentence, str) for sentence in found):
        raise InputError(f"{name} must be a sentence or a list of sentences, but is {given!r}")
    return found


def is_whole(number: Any) -> bool:
    """Return whether something is a whole number and no truth value."""
    return isinstance(number, Integral) and not isinstance(number, bool)


def is_number(number: Any) -> bool:
    """Return whether something is a real number and no truth value."""
    return isinstance(number, Real) and not isinstance(number, bool)


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Check numbers by name.

    Raises:
        InputError: one is no number, or beyond `LARGEST`.
    """
    for name, number in numbers.items():
        if not is_number(number) or not abs(number) <= LARGEST:
            raise InputError(f"{name} must be a number from -{LARGEST:g} to {LARGEST:g}, but is {number!r}")


def check_least(name: str, count: Any, least: int) -> None:
    """Check a count.

    Raises:
        InputError: it is no whole number, or below the least.
    """
    if not is_whole(count):
        raise InputError(f"{name} must be a whole number, but is {count!r}")
    if count < least:
        raise InputError(f"{name} must be at least {least}, but is {count}")


def check_share(name: str, share: Any) -> None:
    """Check a share.

    Raises:
        InputError: it is no number from 0 to 1.
    """
    if not is_number(share) or not 0 <= share <= 1:
        raise InputError(f"{name} must be a share from 0 to 1, but is {share!r}")


def check_positive_share(name: str, share: Any) -> None:
    """Check that a number lies above 0 and up to 1.

    Raises:
        InputError: it does not.
    """
    if not is_number(share) or not 0 < share <= 1:
        raise InputError(f"{name} must be a share above 0 and up to 1, but is {share!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check a choice.

    Raises:
        InputError: it is none of those that there are.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Check a yes or no.

    Raises:
        InputError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, but is {value!r}")


def check_state(source: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that tensors are exactly a model's own by names and shapes.

    Args:
        source: where those that are given come from.
        own: the model's tensors.
        given: those that are to take their places.

    Raises:
        CheckpointMismatch: some are missing, unexpected or of another shape.
    """
    common = own.keys() & given.keys()
    reshaped = [(name, given[name].shape, own[name].shape) for name in common if given[name].shape != own[name].shape]
    check_tensors(source, own.keys() - common, given.keys() - common, reshaped)


def check_tensors(
    source: str,
    missing: Iterable[str],
    unexpected: Iterable[str],
    reshaped: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """Check that a model's tensors are all there is, and of its shapes.

    Args:
        source: where they come from.
        missing: names of those that are not there.
        unexpected: names of those that the model has not.
        reshaped: of those of another shape the name, that shape and the model's own.

    Raises:
        CheckpointMismatch: there are some of either.
    """
    shapes = [f"{name} ({tuple(held)} instead of {tuple(own)})" for name, held, own in sorted(reshaped)]
    wrong = sorted(missing), sorted(unexpected), shapes
    if any(wrong):
        raise CheckpointMismatch(source, *wrong)
