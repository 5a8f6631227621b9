"""How much of a picture a model's autoencoder keeps: what StickerBench really renders, encoded and decoded.

    python benchmarks/autoencoder.py [--model stickers] [--split test] [--subjects 40] [--drawings runs/stickers/drawings]

Prints the peak signal-to-noise ratio of a render of every sentence about every subject, mean and 95 % interval over subjects.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from realcustom import RealCustomPipeline
from realcustom.data.examples import to_pixels
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.evaluation.benchmark import StickerBench
from realcustom.evaluation.scores import bootstrap, with_interval
from realcustom.latents import to_latents
from realcustom.latents import to_pixels as decoded
from realcustom.training.autoencoder import psnr


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--drawings", type=Path, default=Path("runs/stickers/drawings"))
    options = parser.parse_args(arguments)
    pipeline = RealCustomPipeline.from_pretrained(options.model)
    bench = StickerBench(
        DrawingStore.load(options.drawings), options.split, options.subjects, seeds=1, side=pipeline.side
    )
    kept = []
    for item in bench.items:
        pixels = to_pixels([item.example.picture])
        back = decoded(pipeline.vae, to_latents(pipeline.vae, pixels)).clamp(-1, 1)
        kept.append(float(psnr(back, pixels)))
    spread = with_interval(bootstrap(kept, [item.subject for item in bench.items]), ".1f")
    print(f"{len(kept)} renders of {len(bench.one_each())} subjects: {spread} dB")


if __name__ == "__main__":
    main()
