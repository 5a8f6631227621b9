"""`make demo`: the main job on example subjects, and pictures that show how it was done.

    python -m realcustom.apps.demo EXAMPLES OUT

For every example of EXAMPLES/examples.json it writes the new picture, and a sheet: the subject, the new picture, the same
seed without the subject, the mask over the picture, and below them the mask over the steps: the word narrowing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.pictures import mask_over, mask_strip, read_picture, sheet, write_picture
from realcustom.pipeline import RealCustomPipeline
from realcustom.portrait import fit_reference


def explain(pipeline: RealCustomPipeline, subject: Image.Image, prompt: str, word: str, seed: int) -> list[Image.Image]:
    """Return the new picture of a subject, and the sheet that explains it."""
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    made = pipeline(prompt, subject, word, num_images_per_prompt=2, subject_scale=[1, 0], generator=generators)
    picture, twin = made.images
    assert made.masks is not None
    shown = fit_reference(subject, picture.height)
    row = sheet([shown, picture, twin, mask_over(picture, made.masks.final[0])], columns=4)
    strip = mask_strip(made.masks.steps[:, 0], side=(row.width + 2) // 10 - 2)
    whole = Image.new("RGB", (row.width, row.height + strip.height + 2), "white")
    whole.paste(row)
    whole.paste(strip, (0, row.height + 2))
    return [picture, whole]


def main(examples: Path, out: Path) -> None:
    """Run every example and say where its pictures are."""
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    pipeline = RealCustomPipeline.from_pretrained("stickers")
    pipeline.set_progress_bar_config(disable=True)
    for example in json.loads((examples / "examples.json").read_text("utf-8")):
        started = time.monotonic()
        subject = read_picture(examples / example["subject"])
        picture, whole = explain(pipeline, subject, example["prompt"], example["word"], example["seed"])
        name = Path(example["subject"]).stem
        write_picture(picture, out / f"{name}.png")
        write_picture(whole, out / f"{name}-explained.png")
        print(f"{out / name}.png  {example['prompt']!r}  ({time.monotonic() - started:.1f} s, with its twin)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
