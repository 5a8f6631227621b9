"""The numbers of the authors' own code: a folder of safetensors files, each with a JSON file that says what it holds.

`REALCUSTOM_GOLDEN` names another folder of the same layout, with other sizes and other random weights. Every shape comes from
the files.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("REALCUSTOM_GOLDEN") or Path(__file__).parents[1] / "golden")


@cache
def about(name: str) -> dict[str, Any]:
    """Return what a file's JSON says: configuration, cases, meaning."""
    return json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """Return the tensors of a file."""
    return load_file(GOLDEN / f"{name}.safetensors")


def weights(name: str, prefix: str = "weights.") -> dict[str, Tensor]:
    """Return the state dict that a file holds, under the authors' key names."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors(name).items() if key.startswith(prefix)}


def deviation(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, in standard deviations of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.std())
