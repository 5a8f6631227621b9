"""Putting a trained base and adapter together into one model folder in diffusers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from realcustom.adapter import RealCustomAdapter
from realcustom.errors import InputError
from realcustom.loading import load_strictly
from realcustom.options import Options
from realcustom.pipeline import RealCustomPipeline


class PackageRecipe(Options):
    """All that `realcustom train package` needs."""

    output_dir: Path
    base: Path
    """Folder of the text-to-image model."""
    adapter: Path | None = None
    """Without it the model makes text-to-image pictures only."""
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
    base = RealCustomPipeline.from_pretrained(recipe.base)
    parts = {**base.components, "adapter": load_strictly(RealCustomAdapter, recipe.adapter) if recipe.adapter else None}
    own = {name: value for name, value in base.config.items() if name not in parts and not name.startswith("_")}
    unknown = sorted(recipe.defaults.keys() - own.keys())
    if unknown:
        raise InputError(f"defaults has no {', '.join(unknown)}; a model has the defaults {', '.join(sorted(own))}")
    for part in parts.values():
        if isinstance(part, ModelMixin):
            part.register_to_config(
                _name_or_path=recipe.output_dir.name
            )  # diffusers would tell where it was loaded from
    RealCustomPipeline(**parts, **{**own, **recipe.defaults}).to(torch.float16).save_pretrained(recipe.output_dir)
