"""`realcustom licenses`: whose the code, the weights and their data are, and what may be done with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from realcustom.apps.tables import aligned
from realcustom.errors import CheckFailed, InputError
from realcustom.finding import locate
from realcustom.licenses import Licensed, of_model, of_package

_SAID = {True: "allowed", False: "forbidden", None: "unknown"}


def licenses(model: str, *, commercial: bool, as_json: bool) -> None:
    """Print the licences of the code and of a model.

    Args:
        model: embedded model, folder or hub id.
        commercial: whether everything must allow commercial use.
        as_json: print one JSON object.

    Raises:
        InputError: there is no such model here, or its list of licences cannot be read.
        CheckFailed: commercial use is wanted, and something forbids it or nothing says that it is allowed.
    """
    place = locate(model)
    if not place.is_there:
        fetch = f"; fetch what is needed with: hf download {model} --include '*.json' README.md"
        raise InputError(f"there is no model in {place.folder}{fetch if place.kind == 'hub' else ''}")
    entries = [of_package(), *of_model(place)]
    if as_json:
        print(json.dumps({"model": model, "commercial": _verdict(entries), "entries": [*map(_record, entries)]}))
    else:
        print("\n\n".join(map(_paragraph, entries)))
    if commercial:
        _require_commercial(entries)
        if not as_json:
            print(f"\ncommercial use is allowed by all {len(entries)}; what they ask for is said above")


def _verdict(entries: Sequence[Licensed]) -> bool | None:
    """Return whether all allow commercial use; None if none forbids it and some are silent."""
    said = {entry.commercial for entry in entries}
    return False if False in said else None if None in said else True


def _require_commercial(entries: Sequence[Licensed]) -> None:
    reasons = {
        "forbidden by": [entry for entry in entries if entry.commercial is False],
        "not known to be allowed by": [entry for entry in entries if entry.commercial is None],
    }
    found = [
        f"{reason} {'; '.join(f'{entry.what} ({entry.license or _SAID[None]})' for entry in those)}"
        for reason, those in reasons.items()
        if those
    ]
    if found:
        raise CheckFailed(f"commercial use is {', and '.join(found)}")


def _paragraph(entry: Licensed) -> str:
    rows = [
        ("by", entry.by or "not said"),
        ("licence", entry.license or _SAID[None]),
        ("from", entry.source or "not said"),
        ("commercial use", _SAID[entry.commercial]),
        *([("asks to", "; ".join(entry.asks))] if entry.asks else []),
    ]
    return f"{entry.part}: {entry.what}\n{aligned(rows)}"


def _record(entry: Licensed) -> dict[str, object]:
    return {**asdict(entry), "commercial": entry.commercial, "asks": list(entry.asks)}
