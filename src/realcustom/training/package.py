"""Putting trained parts together into one model folder in diffusers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from transformers import AutoTokenizer, BertModel

from realcustom.adapter import RealCustomAdapter
from realcustom.errors import InputError
from realcustom.loading import load_strictly
from realcustom.options import Options
from realcustom.pipeline import RealCustomPipeline


class PackageRecipe(Options):
    """All that `realcustom train package` needs."""

    output_dir: Path
    autoencoder: Path
    text: Path
    unet: Path
    adapter: Path | None = None
    """Without it the model makes text-to-image pictures only."""
    scheduler: dict[str, Any]
    """Arguments of `diffusers.DDIMScheduler`."""
    defaults: dict[str, Any] = {}
    """Default arguments of the pipeline: guidance and steps."""
    overwrite: bool = False
    """Replace a model that lies in `output_dir`."""


def package(recipe: PackageRecipe) -> None:
    """Write the model, its numbers in half precision, into `output_dir`.

    Raises:
        InputError: there is a model already, or a part is missing.
    """
    if (recipe.output_dir / "model_index.json").exists() and not recipe.overwrite:
        raise InputError(
            f"{recipe.output_dir} holds a model; replace it with overwrite=true, or name another output_dir"
        )
    pipeline = RealCustomPipeline(
        vae=load_strictly(AutoencoderDC, recipe.autoencoder),
        text_encoder=load_strictly(BertModel, recipe.text / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(recipe.text / "tokenizer"),
        unet=load_strictly(UNet2DConditionModel, recipe.unet),
        scheduler=DDIMScheduler(**recipe.scheduler),
        adapter=load_strictly(RealCustomAdapter, recipe.adapter) if recipe.adapter else None,
        **recipe.defaults,
    )
    pipeline.to(torch.float16).save_pretrained(recipe.output_dir)
