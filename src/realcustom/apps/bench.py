"""`realcustom data bench`: StickerBench's work list as files, for systems that know nothing of this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import SEEDS, SENTENCES, SUBJECTS, SUBSET, StickerBench, picture_file
from realcustom.evaluation.output import write_lines
from realcustom.pictures import write_picture

DRAWINGS = Path("runs/stickers/drawings")
"""Where `realcustom data stickers` writes if it is not told otherwise in the docs."""

SIDE = 128
"""Of the pictures where no model says it, in pixels."""


def work_list(options: argparse.Namespace, store: DrawingStore, side: int = SIDE) -> StickerBench:
    """Return as much of StickerBench as the options ask for.

    Raises:
        InputError: they ask for more than there is.
    """
    whole = {"subjects": SUBJECTS, "prompts": len(SENTENCES), "seeds": SEEDS}
    size = {**whole, **(SUBSET if options.subset else {})}
    size |= {name: getattr(options, name) for name in size if getattr(options, name) is not None}
    return StickerBench(store, options.split or "validation", **size, side=side)


def bench(options: argparse.Namespace) -> None:
    """Write the references and `requests.jsonl`, a line for each picture that is wanted.

    Raises:
        InputError: the folder is there already, or the drawings are not.
    """
    folder = options.folder
    if folder.exists():
        raise InputError(f"{folder} is there already; name a new folder")
    found = work_list(options, DrawingStore.load(options.drawings or DRAWINGS))
    (folder / "references").mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for item in found.items:
        reference = f"references/{item.subject_file}.png"
        if not (folder / reference).exists():
            write_picture(Image.fromarray(item.example.reference), folder / reference)
        lines.append(
            {
                "picture": picture_file(item.number), "reference": reference, "prompt": item.example.caption,
                "word": item.example.word, "class": item.example.facts["noun"], "family": item.family, "seed": item.number,
            }
        )  # fmt: skip
    write_lines(lines, folder / "requests.jsonl")
    print(f"{folder / 'requests.jsonl'}: {len(lines)} pictures of {len({one['reference'] for one in lines})} subjects")
