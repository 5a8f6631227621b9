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

from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import save
from realcustom.painting import Painter, Painting, Source
from realcustom.pictures import mask_over, mask_strip, read_picture, sheet
from realcustom.portrait import fit_reference


def explained(painting: Painting, subject: Image.Image) -> Image.Image:
    """Return the sheet that explains a picture, which its text-only twin follows in the same call."""
    picture, twin = painting.pictures
    shown = fit_reference(subject, picture.height)
    row = sheet([shown, picture, twin, mask_over(picture, painting.masks.final[0])], columns=4)
    strip = mask_strip(painting.masks.steps[:, 0], side=(row.width + 2) // 10 - 2)
    whole = Image.new("RGB", (row.width, row.height + strip.height + 2), "white")
    whole.paste(row)
    whole.paste(strip, (0, row.height + 2))
    return whole


def main(examples: Path, out: Path) -> None:
    """Run every example and say where its pictures are."""
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    painter = Painter.load("stickers")
    for example in json.loads((examples / "examples.json").read_text("utf-8")):
        started = time.monotonic()
        subject = read_picture(examples / example["subject"])
        settings = painter.settings(example["prompt"], example["word"], seed=example["seed"])
        painting = painter.paint([Source([subject])], [settings, settings.model_copy(update={"subject_scale": 0.0})])
        name = Path(example["subject"]).stem
        save(painting.pictures[0], out / f"{name}.png", painting.provenances[0])
        save(explained(painting, subject), out / f"{name}-explained.png", None)
        print(f"{out / name}.png  {example['prompt']!r}  ({time.monotonic() - started:.1f} s, with its twin)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
