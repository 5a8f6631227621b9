"""What a subject costs: time and peak memory of a picture against plain text-to-image of the same base, same steps.

    python benchmarks/cost.py [--model stickers] [--steps 25] [--rounds 5]

Both kinds of picture are made in turn within one process, and the ratio of the medians is printed; a subject needs three
UNet evaluations a step where text-to-image needs two. Peak memory is that of a process of its own for each kind.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from PIL import Image, ImageDraw

from realcustom import RealCustomPipeline

PROMPT, WORD = "a robot on the beach", "robot"


def subject() -> Image.Image:
    """Return a picture of something."""
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((24, 24, 104, 104), fill="orange", outline="black", width=4)
    return picture


def make(pipeline: RealCustomPipeline, with_subject: bool, steps: int) -> float:
    """Make one picture and return the seconds that it took."""
    chosen: dict[str, Any] = {"subject_image": subject(), "subject_word": WORD} if with_subject else {}
    started = time.perf_counter()
    pipeline(PROMPT, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **chosen)
    return time.perf_counter() - started


def load(model: str) -> RealCustomPipeline:
    """Return the pipeline, silent."""
    pipeline = RealCustomPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def peak_megabytes(model: str, kind: str, steps: int) -> float:
    """Return the peak memory of a process that loads the model and makes one picture of a kind."""
    command = [sys.executable, __file__, "--model", model, "--steps", str(steps), "--only", kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("plain", "subject"), help="make one picture and print the peak memory in MB")
    options = parser.parse_args()
    pipeline = load(options.model)
    if options.only:
        make(pipeline, options.only == "subject", options.steps)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    kinds = {"plain": False, "subject": True}
    for with_subject in kinds.values():
        make(pipeline, with_subject, 1)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, with_subject in kinds.items():
            seconds[kind].append(make(pipeline, with_subject, options.steps))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    peaks = {kind: peak_megabytes(options.model, kind, options.steps) for kind in kinds}
    print(f"{options.steps} steps, float32, {torch.get_num_threads()} threads, median of {options.rounds}")
    for kind in kinds:
        ratios = f"{medians[kind] / medians['plain']:.2f} x time, {peaks[kind] / peaks['plain']:.2f} x memory"
        print(f"{kind:8} {medians[kind]:6.2f} s  {peaks[kind]:6.0f} MB   {ratios}")


if __name__ == "__main__":
    main()
