"""What several methods make of the same requests: a figure with a row for each subject and a column for each method.

    realcustom data bench runs/bench --subset
    python benchmarks/side_by_side.py runs/bench runs/realcustom runs/dreambooth [--output side-by-side.png]

The folders are those of `realcustom evaluate` on the same part of the list, and give the columns their names. A row shows one
sentence of its subject, each row one of another family as far as there are any: always the same one, whatever it looks like.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.pictures import labelled_grid


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="folder of realcustom data bench")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of realcustom evaluate")
    parser.add_argument("--output", type=Path, default=Path("side-by-side.png"))
    options = parser.parse_args(arguments)
    lines = (options.bench / "requests.jsonl").read_text("utf-8").splitlines()
    chosen = one_of_each([json.loads(line) for line in lines])
    cells = []
    for request in chosen:
        paths = [options.bench / request["reference"]]
        paths += [folder / "subject" / request["picture"] for folder in options.folders]
        cells += [Image.open(path).convert("RGB") for path in paths]
    columns = ["subject", *(folder.name for folder in options.folders)]
    labelled_grid(cells, columns, [request["prompt"] for request in chosen]).save(options.output)


def one_of_each(requests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first request about each subject that is of the next family in turn, or else its first one."""
    families = list(dict.fromkeys(request["family"] for request in requests))
    chosen = []
    for turn, reference in enumerate(dict.fromkeys(request["reference"] for request in requests)):
        own = [request for request in requests if request["reference"] == reference]
        wanted = families[turn % len(families)]
        chosen.append(next((request for request in own if request["family"] == wanted), own[0]))
    return chosen


if __name__ == "__main__":
    main()
