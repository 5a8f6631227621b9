"""Putting a trained base and adapter together into one model folder in diffusers' layout."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import ModelMixin
from pydantic import PositiveInt

from realcustom.adapter import RealCustomAdapter
from realcustom.errors import InputError
from realcustom.finding import INDEX, read_object
from realcustom.integrity import MANIFEST, write_manifest
from realcustom.loading import load_strictly
from realcustom.options import Options, PositiveShare, Share
from realcustom.painting import take_scheduler
from realcustom.pipeline import RealCustomPipeline


class ModelDefaults(Options):
    """Arguments of a pipeline that a model brings along; those of its base where none is given."""

    num_inference_steps: PositiveInt | None = None
    guidance_scale: float | None = None
    subject_guidance_scale: float | None = None
    mask_scope: Share | None = None
    final_mask_scope: Share | None = None
    token_ratio: PositiveShare | None = None
    mask_binary: bool | None = None
    mask_yields: bool | None = None
    mask_layers: list[str] | None = None


class PackageRecipe(Options):
    """All that `realcustom train package` needs."""

    output_dir: Path
    base: Path
    """Folder of the text-to-image model."""
    adapter: Path | None = None
    """Without it the model makes text-to-image pictures only."""
    autoencoder: Path | None = None
    """Folder of another autoencoder with the very latents of the base's own: one whose decoder was trained further."""
    defaults: ModelDefaults = ModelDefaults()
    scheduler: str | None = None
    """Short or class name of the sampler that the model brings along; its base's if none is given."""
    overwrite: bool = False
    """Replace the parts of a model that lies in `output_dir`."""


def package(recipe: PackageRecipe) -> None:
    """Write the model, its numbers in half precision, and a manifest into `output_dir`, which it takes over as a whole.

    What lies there and is no part of a model, such as its card, licences and logs, stays.

    Raises:
        InputError: there is a model already, a part is missing, or the other autoencoder has other latents.
    """
    if (recipe.output_dir / INDEX).exists() and not recipe.overwrite:
        raise InputError(
            f"{recipe.output_dir} holds a model; replace it with overwrite=true, or name another output_dir"
        )
    base = RealCustomPipeline.from_pretrained(recipe.base)
    parts = {**base.components, "adapter": load_strictly(RealCustomAdapter, recipe.adapter) if recipe.adapter else None}
    if recipe.autoencoder is not None:
        parts["vae"] = _of_same_latents(base.vae, recipe.autoencoder)
    for component in parts.values():
        if isinstance(component, ModelMixin):
            component.register_to_config(
                _name_or_path=recipe.output_dir.name
            )  # diffusers would tell where it was loaded from
    pipeline = RealCustomPipeline(**parts, **{**base.own_settings, **recipe.defaults.model_dump(exclude_none=True)})
    take_scheduler(pipeline, recipe.scheduler)
    final = recipe.output_dir.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent) as drafts:
        draft, old = Path(drafts) / "new", Path(drafts) / "old"
        pipeline.to(torch.float16).save_pretrained(draft)
        if final.is_dir():
            _carry_over(final, draft, parts={*parts, *read_object(final / INDEX), INDEX, MANIFEST})
        write_manifest(draft)
        if final.is_dir():
            final.rename(old)
        try:
            draft.rename(final)
        except OSError:
            if old.is_dir():
                old.rename(final)
            raise


def _of_same_latents(own: ModelMixin, folder: Path) -> ModelMixin:
    """Return the autoencoder of a folder, whose encoder is that of a base's own one."""
    other = load_strictly(type(own), folder)
    of_own, of_other = own.encoder.state_dict(), other.encoder.state_dict()
    same = of_own.keys() == of_other.keys() and all(
        torch.equal(one.half(), of_other[name].half())  # one of them may have been stored so
        for name, one in of_own.items()
    )
    if not same or own.config.scaling_factor != other.config.scaling_factor:
        raise InputError(
            f"the autoencoder of {folder} has other latents than the base's own, so that the base cannot paint them; train the "
            "decoder alone, with frozen_encoder"
        )
    return other


def _carry_over(old: Path, new: Path, *, parts: Collection[str]) -> None:
    """Copy what lies in a model's folder beside its parts into that of the model that takes its place."""
    for path in old.iterdir():
        if path.name not in parts:
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, new / path.name)
