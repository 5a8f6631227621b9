"""`realcustom models`: the models that are on this machine."""

from __future__ import annotations

import json

from realcustom.apps.tables import aligned, megabytes
from realcustom.finding import EMBEDDED, Model, cached_places, describe, locate


def models(*, as_json: bool) -> None:
    """Print the embedded models, and those of the hub that lie in its local cache."""
    found = [describe(place) for place in [*map(locate, EMBEDDED), *cached_places()]]
    if as_json:
        print(json.dumps({"models": [_record(model) for model in found]}))
        return
    for model in found:
        pixels = f"{model.pixels} x {model.pixels} pixels" if model.pixels else "of unknown size"
        facts = f"{model.place.kind}, {_makes(model)}, {pixels}, {megabytes(model.size)}"
        print(
            f"{model.place.name}\n{aligned([(model.description or 'no model card',), (facts,), (str(model.place.folder),)])}"
        )


def _makes(model: Model) -> str:
    return "text and subject to picture" if model.takes_subject else "text to picture"


def _record(model: Model) -> dict[str, object]:
    return {
        "name": model.place.name,
        "where": model.place.kind,
        "kind": _makes(model),
        "pixels": model.pixels,
        "bytes": model.size,
        "description": model.description,
        "folder": str(model.place.folder),
    }
