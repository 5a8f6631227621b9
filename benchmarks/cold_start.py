"""The time from the start of a process to its first picture, and where it goes.

    python benchmarks/cold_start.py [--model stickers] [--steps N] [--rounds 5]

Every round takes the time in fresh processes; each figure is the median over the rounds. What a process needs before this
package comes in, the interpreter and the bare imports of torch and of what every pipeline of diffusers is made of, no
program on diffusers can do without. The headline is what it needs beyond that until it has its first picture. The files
are warm: a round that is not counted comes first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

LIGHT = """
import json, sys, time
marks = {"start": float(sys.argv[1]), "interpreter": time.monotonic()}
import realcustom
marks["realcustom"] = time.monotonic()
print(json.dumps(marks))
"""

PICTURES = """
import json, sys, time
marks = {"start": float(sys.argv[1]), "interpreter": time.monotonic()}
model, steps = json.loads(sys.argv[2])
import torch
marks["torch"] = time.monotonic()
from diffusers import DiffusionPipeline, UNet2DConditionModel
marks["diffusers"] = time.monotonic()
from realcustom.pipeline import RealCustomPipeline
marks["realcustom.pipeline"] = time.monotonic()
pipeline = RealCustomPipeline.from_pretrained(model)
pipeline.set_progress_bar_config(disable=True)
marks["load"] = time.monotonic()
from PIL import Image, ImageDraw
subject = Image.new("RGB", (128, 128), "white")
ImageDraw.Draw(subject).ellipse((24, 24, 104, 104), fill="orange", outline="black", width=4)
for name in ("first picture", "second picture"):
    noise = torch.Generator().manual_seed(0)
    pipeline("a robot on the beach", subject, "robot", num_inference_steps=steps, generator=noise)
    marks[name] = time.monotonic()
print(json.dumps(marks))
"""

BARE = ("interpreter", "torch", "diffusers")
OWN = ("realcustom.pipeline", "load", "first picture")


def run(program: str, *arguments: str) -> dict[str, float]:
    """Return how long a new process took to come from each of its marks to the next, in seconds.

    The clock counts for all processes of a machine alike, so that the first mark is the moment before its start.
    """
    command = [sys.executable, "-c", program, str(time.monotonic()), *arguments]
    marks = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    names, moments = list(marks), list(marks.values())
    return {name: after - before for name, before, after in zip(names[1:], moments, moments[1:], strict=False)}


def measure(model: str, steps: int | None) -> dict[str, float]:
    """Take every figure once, in seconds."""
    figures = {**run(PICTURES, json.dumps([model, steps])), "import realcustom": run(LIGHT)["realcustom"]}
    own, bare = (sum(figures[part] for part in parts) for parts in (OWN, BARE))
    return {**figures, "own": own, "whole": bare + own}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--steps", type=int, help="the model's own number if not given")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measure(options.model, 1)
    rounds = [measure(options.model, options.steps) for _ in range(options.rounds)]
    figures = {name: statistics.median(taken[name] for taken in rounds) for name in rounds[0]}
    rows = {
        "own": "until the first picture, beyond the bare imports",
        "whole": "until the first picture, from the start of the process; of this:",
        "interpreter": "  the interpreter",
        "torch": "  import of torch",
        "diffusers": "  import of DiffusionPipeline and UNet2DConditionModel from diffusers",
        "realcustom.pipeline": "  import of realcustom.pipeline",
        "load": "  load of the model",
        "first picture": "  the first picture",
        "second picture": "a second picture, for comparison",
        "import realcustom": "import of realcustom, which loads nothing of these",
    }
    print(f"seconds, median of {options.rounds}")
    for name, meaning in rows.items():
        print(f"{figures[name]:7.2f}  {meaning}")


if __name__ == "__main__":
    main()
