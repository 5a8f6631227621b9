"""`realcustom train`: from a recipe to a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from realcustom.apps.console import quiet_libraries
from realcustom.data.sources import open_source
from realcustom.options import load_options
from realcustom.training import loop, recipes
from realcustom.training.adapter import AdapterObjective, AdapterRecipe, JointObjective, JointRecipe
from realcustom.training.autoencoder import AutoencoderObjective, AutoencoderRecipe
from realcustom.training.base import BaseObjective, BaseRecipe
from realcustom.training.judges import JudgesObjective, JudgesRecipe
from realcustom.training.package import PackageRecipe, package

_PARTS: dict[str, tuple[Any, Any]] = {
    "autoencoder": (AutoencoderRecipe, AutoencoderObjective),
    "base": (BaseRecipe, BaseObjective),
    "adapter": (AdapterRecipe, AdapterObjective),
    "joint": (JointRecipe, JointObjective),
    "judges": (JudgesRecipe, JudgesObjective),
}

VALIDATION_SEED = 1
"""Of the validation scenes, the same in every run, so that figures can be compared."""


def train(part: str, config: Path, overrides: Sequence[str]) -> None:
    """Run, or go on with, the run that a recipe describes.

    Raises:
        InputError: the recipe or what it refers to cannot be used.
    """
    quiet_libraries()
    if part == "package":
        package(load_options(PackageRecipe, config, overrides))
        return
    recipe_class, objective_class = _PARTS[part]
    recipe: Any = load_options(recipe_class, config, overrides)
    recipes.check_changes(recipe, recipe.output_dir)
    torch.manual_seed(recipe.training.seed)  # for the first weights
    objective = objective_class(recipe, open_source(recipe.data, "validation", seed=VALIDATION_SEED))
    examples = recipe.examples()
    recipes.record(recipe, recipe.output_dir)
    loop.train(objective, examples, recipe.training, recipe.output_dir)
