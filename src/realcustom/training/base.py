"""Learning the text-to-image base, which knows nothing of subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from realcustom.attention import attached, attention_grid
from realcustom.data.examples import Batch, ExampleSource, collate
from realcustom.loading import construct, load_model, load_strictly, require_tokenizer
from realcustom.masks import aggregate, area_mask, chance_of_overlap, influence_scope, overlap
from realcustom.options import Share
from realcustom.pictures import sheet
from realcustom.pipeline import RealCustomPipeline
from realcustom.placement import FRAME_SCOPE, frame_of
from realcustom.prompts import TextStates, encode_prompts, find_word
from realcustom.training.diffusion import NoisyBatch, draw_noisy, encode, make_noisy, predict_noisy, sample_errors
from realcustom.training.options import Fixed, Recipe

MEASURED_TIMESTEPS = (100, 300, 500, 700, 900)
"""Noise levels at which validation looks, from almost clean to almost noise."""


class BaseRecipe(Recipe):
    """All that a run of `realcustom train base` needs."""

    autoencoder: Fixed[Path]
    """Folder of an autoencoder, of any of diffusers' classes."""
    text: Fixed[Path]
    """Folder that holds `text_encoder` and `tokenizer`."""
    unet: Fixed[dict[str, Any]]
    """Arguments of `diffusers.UNet2DConditionModel`."""
    scheduler: Fixed[dict[str, Any]]
    """Arguments of `diffusers.DDIMScheduler`, whose training half is used."""
    initial_unet: Fixed[Path | None] = None
    """Folder of a UNet to start from instead of random weights."""
    caption_dropout: Share = 0.1
    """Share of captions that are replaced by the empty one, for guidance."""
    validation_examples: PositiveInt = 64
    mask_layers: list[str] = []
    """Beginnings of the names of the layers whose attention makes the mask; all if there are none."""
    prompts: list[str] = []
    """Sentences whose pictures are drawn at every validation."""
    guidance_scale: float = 4.0
    """For these pictures."""


class BaseObjective:
    """Mean squared error of the predicted noise or velocity, text as the only condition (RC 1)."""

    def __init__(self, recipe: BaseRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        self.autoencoder = load_model(recipe.autoencoder).requires_grad_(False)
        self.text_encoder = load_strictly(transformers.AutoModel, recipe.text / "text_encoder").requires_grad_(False)
        require_tokenizer(recipe.text / "tokenizer")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(recipe.text / "tokenizer", local_files_only=True)
        self.sampler = construct(DDIMScheduler, recipe.scheduler, "scheduler")
        self.scheduler = DDPMScheduler.from_config(self.sampler.config)
        self.model = (
            load_strictly(UNet2DConditionModel, recipe.initial_unet)
            if recipe.initial_unet
            else construct(UNet2DConditionModel, recipe.unet, "unet")
        )
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)])

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts and what is held out to the device."""
        self.held_out = self.held_out.to(device)
        self.autoencoder.to(device)
        self.text_encoder.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return one group."""
        return [{"params": list(self.model.parameters())}]

    def loss(
        self, model: UNet2DConditionModel, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the error at random noise levels."""
        dropped = torch.rand(len(batch.captions), generator=generator) < self.recipe.caption_dropout
        captions = ["" if drop else caption for caption, drop in zip(batch.captions, dropped, strict=True)]
        text = encode_prompts(captions, self.tokenizer, self.text_encoder, shortest=True)
        noisy = draw_noisy(encode(self.autoencoder, batch.pixels), self.scheduler, generator)
        return sample_errors(predict_noisy(model, noisy, text), noisy).mean(), {}

    def validate(self, model: UNet2DConditionModel) -> tuple[dict[str, float], Image.Image | None]:
        """Return the error on held-out examples by timestep, and where the source knows regions, `localisation`."""
        latents = encode(self.autoencoder, self.held_out.pixels)
        text = encode_prompts(self.held_out.captions, self.tokenizer, self.text_encoder, shortest=True)
        columns = noun_columns(self.held_out, self.tokenizer, text)
        figures: dict[str, float] = {}
        for step, noisy in measured_noise(latents, self.scheduler):
            figures |= measure_text_only(model, noisy, text, columns, self.held_out, step, self.recipe.mask_layers)[1]
        return figures, self.draw(model) if self.recipe.prompts else None

    def draw(self, model: UNet2DConditionModel) -> Image.Image:
        """Return a sheet of the recipe's prompts, each with the same first noise every time."""
        pictures = self._pipeline(model)(
            self.recipe.prompts,
            height=self.recipe.data.resolution,
            width=self.recipe.data.resolution,
            num_inference_steps=25,
            guidance_scale=self.recipe.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(self.recipe.prompts))],
        ).images
        return sheet(pictures, columns=8)

    def _pipeline(self, model: UNet2DConditionModel) -> RealCustomPipeline:
        pipeline = RealCustomPipeline(
            self.autoencoder, self.text_encoder, self.tokenizer, model, self.sampler,
            mask_layers=self.recipe.mask_layers,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def export(self, model: UNet2DConditionModel, folder: Path) -> None:
        """Write the whole text-to-image model."""
        self._pipeline(model).save_pretrained(folder)


def measured_noise(latents: Tensor, scheduler: DDPMScheduler) -> Iterator[tuple[int, NoisyBatch]]:
    """Yield the timesteps at which validation looks, with the latents under the same noise every time."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    for step in MEASURED_TIMESTEPS:
        yield step, make_noisy(latents, scheduler, torch.full((len(latents),), step, device=latents.device), noise)


def noun_columns(batch: Batch, tokenizer: transformers.PreTrainedTokenizerBase, text: TextStates) -> Tensor:
    """Return `[b, t]`: 1 on the tokens of each caption's noun; a row of zeros where the source does not know it."""
    columns = text.states.new_zeros(text.states.shape[:2])
    for row, (caption, word) in enumerate(zip(batch.captions, batch.words, strict=True)):
        if word:
            columns[row, list(find_word(caption, word, tokenizer, occurrence=1).tokens)] = 1
    return columns


def measure_text_only(
    unet: UNet2DConditionModel,
    noisy: NoisyBatch,
    text: TextStates,
    columns: Tensor,
    batch: Batch,
    step: int,
    mask_layers: Sequence[str],
) -> tuple[Tensor, dict[str, float]]:
    """Return each sample's error without a subject, and the figures of timestep `step`.

    `error/T`; where the source knows regions, `localisation/T` and its chance, and how far the frames that masks give are
    from the true ones: `frame_centre/T`, root mean square in units of the picture's side, and of the logarithm of the size
    the mean `frame_size/T` and the standard deviation `frame_size_spread/T`.
    """
    with attached(unet) as tap:
        tap.latent_size, tap.word = (noisy.noisy.shape[2], noisy.noisy.shape[3]), columns
        tap.watched = mask_layers
        prediction = predict_noisy(unet, noisy, text)
    errors = sample_errors(prediction, noisy)
    figures = {f"error/{step}": float(errors.mean())}
    if batch.regions is not None:
        relevance = aggregate(list(tap.maps.values()), size=attention_grid(unet, tap.latent_size))
        figures[f"localisation/{step}"] = localisation(relevance, batch.regions)
        figures["localisation/chance"] = chance(batch.regions, (relevance.shape[1], relevance.shape[2]))
        found, true = frame_of(influence_scope(relevance, mask_scope=FRAME_SCOPE)), batch.frames[:, 0]
        sizes = (found[:, 2] / true[:, 2]).log()
        figures[f"frame_centre/{step}"] = float((found[:, :2] - true[:, :2]).square().mean().sqrt())
        figures[f"frame_size/{step}"] = float(sizes.mean())
        figures[f"frame_size_spread/{step}"] = float(sizes.std())
    return errors, figures


def localisation(relevance: Tensor, regions: Tensor) -> float:
    """Return the mean overlap of the true regions with the most relevant cells, as many as the region has.

    Args:
        relevance: `[b, h, w]`, how much each cell attends to the noun.
        regions: `[b, H, W]` in [0, 1], where the noun's thing is.

    Returns:
        Intersection over union, in [0, 1].
    """
    truth = area_mask(regions, (relevance.shape[1], relevance.shape[2]))
    shares = (truth >= 0.5).float().mean(dim=(1, 2))
    scores = [
        overlap(influence_scope(relevance[row, None], mask_scope=float(share) + 1e-6, binary=True), truth[row, None])
        for row, share in enumerate(shares)
    ]
    return float(torch.cat(scores).mean())


def chance(regions: Tensor, size: tuple[int, int]) -> float:
    """Return the expected `localisation` of random masks of the regions' size."""
    shares = (area_mask(regions, size) >= 0.5).float().mean(dim=(1, 2)).tolist()
    return float(np.mean([chance_of_overlap(one, one) for one in shares]))
