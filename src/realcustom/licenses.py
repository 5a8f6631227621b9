"""Under which licences the code, a model's weights and what they were made from are, and what these licences ask for."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass

from realcustom.errors import InputError
from realcustom.finding import Place

LEDGER = "licenses.json"
"""In a model's folder: {"entries": [{part, what, by, license, source}, ...]} of all that it is made from."""

_KEEP = "keep the copyright notice and the licence's text"
_CREDIT = "name the authors, link the licence and say what was changed"
_SHARE = "put changed versions under the same licence"

_TERMS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "Apache-2.0": (True, (_KEEP, "say what was changed", "keep a NOTICE file, if there is one")),
    "BSD-2-Clause": (True, (_KEEP,)),
    "BSD-3-Clause": (True, (_KEEP,)),
    "CC0-1.0": (True, ()),
    "CC-BY-4.0": (True, (_CREDIT,)),
    "CC-BY-NC-4.0": (False, (_CREDIT,)),
    "CC-BY-NC-SA-4.0": (False, (_CREDIT, _SHARE)),
    "CC-BY-SA-4.0": (True, (_CREDIT, _SHARE)),
    "MIT": (True, (_KEEP,)),
}
"""SPDX identifier -> whether it allows commercial use, and what it asks for. Of other licences nothing is claimed."""


@dataclass(frozen=True)
class Licensed:
    """One thing that a run uses or is made from."""

    part: str
    """code, weights, text encoder or data."""
    what: str
    by: str | None = None
    license: str | None = None
    """An SPDX expression; None if unknown."""
    source: str | None = None

    @property
    def commercial(self) -> bool | None:
        """Whether commercial use is allowed; None if nothing says so."""
        known = [_TERMS[name][0] for name in self._licenses if name in _TERMS]
        if False in known:
            return False
        return True if known and len(known) == len(self._licenses) else None

    @property
    def asks(self) -> tuple[str, ...]:
        """What its licences ask for, as far as they are known."""
        asked = [duty for name in self._licenses if name in _TERMS for duty in _TERMS[name][1]]
        return tuple(dict.fromkeys(asked))

    @property
    def _licenses(self) -> list[str]:
        """All licences of the expression; a choice (OR) or an exception (WITH) stays whole, and so is not known."""
        return self.license.split(" AND ") if self.license else []


def of_package(package: str = "realcustom") -> Licensed:
    """Return the licence of the installed code, from its own metadata."""
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return Licensed("code", package)
    told = {name: metadata[name] for name in ("Author", "Author-email", "License-Expression") if name in metadata}
    links = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL") or [])
    return Licensed(
        part="code",
        what=f"{package} {metadata['Version']}",
        by=told.get("Author") or told.get("Author-email"),
        license=told.get("License-Expression"),
        source=next((links[name] for name in ("Source", "Repository", "Homepage") if name in links), None),
    )


def of_model(place: Place) -> list[Licensed]:
    """Return the licences of a model's parts; of its weights that nothing is known, if the model does not tell.

    Raises:
        InputError: the model's own list cannot be read.
    """
    path = place.folder / LEDGER
    if not path.is_file():
        return [Licensed("weights", place.name, source=place.card)]
    try:
        return [_entry(entry) for entry in json.loads(path.read_text("utf-8"))["entries"]]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{path} must hold entries with part, what, by, license and source: {type(error).__name__}: {error}"
        ) from error


def _entry(entry: dict[str, str | None]) -> Licensed:
    part, what = entry["part"], entry["what"]
    if not isinstance(part, str) or not isinstance(what, str):
        raise ValueError("part and what must be said")
    if not all(entry.get(name) is None or isinstance(entry[name], str) for name in ("by", "license", "source")):
        raise ValueError("by, license and source must be words")
    return Licensed(part, what, entry.get("by"), entry.get("license"), entry.get("source"))
