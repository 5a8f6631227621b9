"""`realcustom data bench`: StickerBench's work list as files, for systems that know nothing of this package."""

from __future__ import annotations

import argparse
from typing import Any

from PIL import Image

from realcustom.apps.evaluate import DRAWINGS, work_list
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation.output import write_lines
from realcustom.pictures import write_picture


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
        reference = f"references/{item.subject.replace('/', '-').replace(' ', '-')}.png"
        if not (folder / reference).exists():
            write_picture(Image.fromarray(item.example.reference), folder / reference)
        lines.append(
            {
                "picture": f"{item.number:04d}.png", "reference": reference, "prompt": item.example.caption,
                "word": item.example.word, "class": item.example.facts["noun"], "family": item.family, "seed": item.number,
            }
        )  # fmt: skip
    write_lines(lines, folder / "requests.jsonl")
    print(f"{folder / 'requests.jsonl'}: {len(lines)} pictures of {len({one['reference'] for one in lines})} subjects")
