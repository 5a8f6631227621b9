"""Whether what is tuned to each subject has learned it: what the tuned base makes of the subject's phrase alone.

    python benchmarks/fits.py runs/dreambooth runs/custom-diffusion [--drawings runs/stickers/drawings] [--grid fits.png]

The folders are those of `realcustom evaluate --method RECIPE`, whose `tuning/SUBJECT.png` show the reference beside three
pictures of "a picture of" and the phrase. Prints how alike these are to the subject, by the judges of StickerBench, next to the
reference itself; a subject whose noun has no other drawing takes no part. The grid shows the references of ten
subjects, and below each the first picture of every folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tables
import torch
from PIL import Image

from realcustom.data.examples import to_pixels
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import Item, StickerBench
from realcustom.evaluation.comparison import read_reports
from realcustom.evaluation.galleries import Galleries
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.scores import means_of
from realcustom.loading import load_strictly
from realcustom.pictures import cells_of, labelled_grid, read_picture

FIGURES = ("similarity", "identity")


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of realcustom evaluate --method RECIPE")
    parser.add_argument("--drawings", type=Path, default=Path("runs/stickers/drawings"))
    parser.add_argument("--grid", type=Path, default=Path("fits.png"))
    options = parser.parse_args(arguments)
    for folder in options.folders:
        if not any((folder / "tuning").glob("*.png")):
            parser.error(
                f"{folder} holds no tuning; make it with: realcustom evaluate --method RECIPE --output {folder}"
            )
    try:
        split = next(iter(read_reports(options.folders).values()))["split"]
    except InputError as error:
        parser.error(str(error))
    made = {folder.name: _pictures(folder) for folder in options.folders}
    side = next(iter(made[options.folders[0].name].values()))[0].width
    bench = StickerBench(DrawingStore.load(options.drawings), split, prompts=1, seeds=1, side=side)
    shown = [item for item in bench.one_each() if all(item.subject_file in pictures for pictures in made.values())]
    judges = load_strictly(Judges, SHIPPED)
    galleries = Galleries(bench, judges)
    of = {"the reference": {item.subject_file: [Image.fromarray(item.example.reference)] for item in shown}, **made}
    tables.begin("", "pictures", *FIGURES)
    for name, pictures in of.items():
        figures = _figures(shown, pictures, galleries, judges)
        tables.add(name, str(figures["pictures"]), *(tables.share(figures.get(figure)) for figure in FIGURES))
    drawn = shown[:10]
    cells = [pictures[item.subject_file][0] for pictures in of.values() for item in drawn]
    labelled_grid(cells, [item.example.facts["noun"] for item in drawn], list(of)).save(options.grid)


def _pictures(folder: Path) -> dict[str, list[Image.Image]]:
    """Return what a base was tuned to makes of its phrase, by the files of the subjects."""
    sheets = {path.stem: read_picture(path) for path in sorted((folder / "tuning").glob("*.png"))}
    return {name: cells_of(whole, (whole.height, whole.height))[1:] for name, whole in sheets.items()}


def _figures(
    shown: Sequence[Item], pictures: Mapping[str, Sequence[Image.Image]], galleries: Galleries, judges: Judges
) -> dict[str, Sequence[float]]:
    records = []
    for item in shown:
        own = pictures[item.subject_file]
        for embedding in judges.read(to_pixels([np.asarray(one) for one in own])).identity.numpy():
            records.append({"group": item.subject, **galleries.identity(item, embedding)})
    return means_of(records, FIGURES)


if __name__ == "__main__":
    main()
