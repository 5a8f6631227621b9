"""How a model came to be what it is: the validation figures of its training logs, a row for each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIGURES = ("psnr", "error/500", "localisation/500", "right/700", "wrong/700", "right/900", "wrong/900")
"""What is shown of what `realcustom train` validates."""

_PREFIX = "validation/"


def training_history(model: Path) -> list[dict[str, Any]]:
    """Return the validated checkpoints of a model's training logs (`training/*.jsonl`), by run and step.

    Args:
        model: folder of the model.

    Returns:
        For each checkpoint `run`, `step`, `examples`, `hours` and those of `FIGURES` that were measured; nothing if the model
        brings no logs.
    """
    return [row for log in sorted((model / "training").glob("*.jsonl")) for row in _validated(log)]


def _validated(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text("utf-8").splitlines():
        try:
            logged = json.loads(line)
            where = {name: logged[name] + 0 for name in ("step", "examples", "hours")}
            figures = {name: logged[_PREFIX + name] + 0.0 for name in FIGURES if _PREFIX + name in logged}
        except (ValueError, TypeError, KeyError):  # a run that was killed leaves half a line, and others log otherwise
            continue
        if figures:
            yield {"run": log.stem, **where, **figures}
