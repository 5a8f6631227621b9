"""What the sizes of the embedded model's parts are worth: short trainings that differ in one thing.

    python benchmarks/choices.py [TABLE ...] [--output runs/choices] [--set training.max_train_steps=2000 ...]

Each row is the recipe of `recipes/stickers/` but for what it says; the first one is the recipe itself. All see the same
pictures in the same order. Prints, as Markdown tables, how large the part is, how long the run took and the last figures of its
validation on held-out drawings. A run that was killed goes on, and one that is complete is read.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tables
from safetensors import safe_open

from realcustom.apps.train import train

RECIPES = Path(__file__).parents[1] / "recipes" / "stickers"


@dataclass(frozen=True)
class Table:
    """Runs of one part of the model."""

    part: str
    """As `realcustom train` calls it."""
    recipe: str
    """Name of its recipe."""
    short: Sequence[str]
    """What makes it a short one."""
    weights: str
    """Where its export holds the part."""
    figures: Sequence[str]
    """What its validation measures."""
    variants: Mapping[str, Sequence[str]]
    """What is said of each row but for the recipe."""


_SHORT = ("training.lr_warmup_steps=100", "training.lr_decay_steps=300", "training.dataloader_num_workers=0")

TABLES = {
    "autoencoder": Table(
        "autoencoder",
        "autoencoder.yaml",
        ("training.max_train_steps=600", "training.ema_decay=0.99", *_SHORT),
        "*.safetensors",
        ("psnr",),
        {
            "the recipe": (),
            "4 latent channels": ("autoencoder.latent_channels=4",),
            "16 latent channels": ("autoencoder.latent_channels=16",),
            "a decoder half as wide": ("autoencoder.decoder_block_out_channels=[32, 32, 64, 128]",),
            "an encoder twice as wide": ("autoencoder.encoder_block_out_channels=[64, 64, 128, 256]",),
            "without the error of edges": ("edge_weight=0",),
            "20 times the squared error": ("square_weight=20",),
            "without noise on the latents": ("latent_noise=0",),
        },
    ),
    "base": Table(
        "base",
        "base-64.yaml",
        (
            "training.max_train_steps=600", "training.ema_decay=0.99", "autoencoder=src/realcustom/models/stickers/vae",
            "text=src/realcustom/models/stickers", "prompts=[]", *_SHORT,
        ),
        "unet/*.safetensors",
        ("error/300", "error/500", "error/700", "error/900", "localisation/500"),
        {
            "the recipe": (),
            "widths 64, 128, 256": ("unet.block_out_channels=[64, 128, 256]", "unet.attention_head_dim=[2, 4, 8]"),
            "widths 128, 256, 256": ("unet.block_out_channels=[128, 256, 256]", "unet.attention_head_dim=[4, 8, 8]"),
            "two layers a block": ("unet.layers_per_block=2",),
            "no attention at the finest grid": (
                "unet.down_block_types=[DownBlock2D, CrossAttnDownBlock2D, CrossAttnDownBlock2D]",
                "unet.up_block_types=[CrossAttnUpBlock2D, CrossAttnUpBlock2D, UpBlock2D]", "mask_layers=[up_blocks.1]",
            ),
            "half the rate": ("training.learning_rate=4e-4",),
            "batches of 16, twice as many": (
                "training.train_batch_size=16", "training.max_train_steps=1200", "training.lr_decay_steps=600",
            ),
        },
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tables that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--output", type=Path, default=Path("runs/choices"))
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE", help="of every recipe")
    options = parser.parse_args(arguments)
    for name in tables.chosen(parser, options.tables, TABLES):
        table = TABLES[name]
        tables.begin(name, "million parameters", "pictures", "hours", *table.figures)
        for variant, changes in table.variants.items():
            folder = options.output / tables.folder_name(f"{name} {variant}")
            told = (*table.short, *changes, f"output_dir={folder}", *options.set)
            train(table.part, RECIPES / table.recipe, told)
            tables.add(variant, *_measured(folder, table))


def _measured(folder: Path, table: Table) -> list[str]:
    """Return what the cells of a run's row say."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    last = next(line for line in reversed(lines) if any(name.startswith("validation/") for name in line))
    parameters = sum(map(_count, (folder / "export").glob(table.weights)))
    return [
        f"{parameters / 1e6:.1f}", f"{last['examples']:,}", f"{last['hours']:.2f}",
        *(f"{last[f'validation/{name}']:.3f}" for name in table.figures),
    ]  # fmt: skip


def _count(path: Path) -> int:
    with safe_open(path, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()
