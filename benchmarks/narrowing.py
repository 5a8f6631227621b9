"""How one word narrows to different subjects: the mask over the steps of a run, one sentence, several references.

    python benchmarks/narrowing.py [--prompt "a thing on the beach"] [--word thing] [--output narrowing.png]

Each row: the reference, the mask in evenly picked steps (white where the subject may act), the picture, and the text-only
picture of the same seed, which is the same for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from realcustom import RealCustomPipeline
from realcustom.pictures import evenly, labelled_grid, mask_picture
from realcustom.report import RealCustomOutput

EXAMPLES = Path(__file__).parents[1] / "examples"
SUBJECTS = ("robot.png", "rocket.png", "elephant.png", "backpack.jpg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pictures and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--prompt", default="a thing on the beach")
    parser.add_argument("--word", default="thing")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--masks", type=int, default=6, help="how many steps are shown")
    parser.add_argument("--output", type=Path, default=Path("narrowing.png"))
    options = parser.parse_args(arguments)
    pipeline = RealCustomPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)

    def run(**subject: Any) -> RealCustomOutput:
        return pipeline(options.prompt, generator=torch.Generator().manual_seed(options.seed), **subject)

    plain, cells, steps = run().images[0], [], []
    for name in SUBJECTS:
        reference = Image.open(EXAMPLES / name).convert("RGB")
        made = run(subject_image=reference, subject_word=options.word)
        assert made.masks is not None
        masks = made.masks.steps[:, 0]
        steps = evenly(len(masks), options.masks)
        shown = [mask_picture(masks[step], plain.size).convert("RGB") for step in steps]
        cells += [reference.resize(plain.size), *shown, made.images[0], plain]
    columns = ["subject", *(f"step {step + 1}" for step in steps), "picture", "text only"]
    labelled_grid(cells, columns, [Path(name).stem for name in SUBJECTS]).save(options.output)


if __name__ == "__main__":
    main()
