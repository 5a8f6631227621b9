"""Learning the text-to-image base, which knows nothing of subjects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from realcustom.attention import attached
from realcustom.data.examples import Batch, ExampleSource, collate
from realcustom.data.sources import DataOptions
from realcustom.loading import load_strictly
from realcustom.masks import aggregate, influence_scope, overlap
from realcustom.options import Options
from realcustom.pictures import sheet
from realcustom.pipeline import RealCustomPipeline
from realcustom.prompts import encode_prompts, find_word, word_columns
from realcustom.training.diffusion import draw_noisy, make_noisy, sample_errors, snr_weights
from realcustom.training.options import TrainingOptions

MEASURED_TIMESTEPS = (100, 300, 500, 700, 900)
"""Noise levels at which validation looks, from almost clean to almost noise."""


class BaseRecipe(Options):
    """All that a run of `realcustom train base` needs."""

    output_dir: Path
    data: DataOptions
    training: TrainingOptions
    autoencoder: Path
    """Folder of the trained autoencoder."""
    text: Path
    """Folder that holds `text_encoder` and `tokenizer`."""
    unet: dict[str, Any]
    """Arguments of `diffusers.UNet2DConditionModel`."""
    scheduler: dict[str, Any]
    """Arguments of `diffusers.DDIMScheduler`, whose training half is used."""
    initial_unet: Path | None = None
    """Folder of a UNet to start from instead of random weights."""
    caption_dropout: float = 0.1
    """Share of captions that are replaced by the empty one, for guidance."""
    snr_gamma: float | None = None
    """Bound of min-SNR weighting; null weights every noise level alike."""
    validation_examples: int = 64
    prompts: list[str] = []
    """Sentences whose pictures are drawn at every validation."""
    guidance_scale: float = 4.0
    """For these pictures."""


class BaseObjective:
    """Mean squared error of the predicted noise or velocity, text as the only condition (RC 1)."""

    def __init__(self, recipe: BaseRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        self.autoencoder = load_strictly(AutoencoderDC, recipe.autoencoder).requires_grad_(False)
        self.text_encoder = load_strictly(BertModel, recipe.text / "text_encoder").requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(recipe.text / "tokenizer")
        self.sampler = DDIMScheduler(**recipe.scheduler)
        self.scheduler = DDPMScheduler.from_config(self.sampler.config)
        self.model = (
            load_strictly(UNet2DConditionModel, recipe.initial_unet)
            if recipe.initial_unet
            else UNet2DConditionModel(**recipe.unet)
        )
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)])

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts to the device."""
        self.autoencoder.to(device)
        self.text_encoder.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return one group."""
        return [{"params": list(self.model.parameters())}]

    def loss(
        self, model: UNet2DConditionModel, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted error at random noise levels."""
        dropped = torch.rand(len(batch.captions), generator=generator) < self.recipe.caption_dropout
        captions = ["" if drop else caption for caption, drop in zip(batch.captions, dropped, strict=True)]
        text = encode_prompts(captions, self.tokenizer, self.text_encoder, shortest=True)
        noisy = draw_noisy(self.encode(batch.pixels), self.scheduler, generator)
        prediction = model(noisy.noisy, noisy.timesteps, text.states, encoder_attention_mask=text.keep).sample
        errors = sample_errors(prediction, noisy)
        return (snr_weights(self.scheduler, noisy.timesteps, self.recipe.snr_gamma) * errors).mean(), {}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the scaled latents of `pixels [b, 3, h, w]`."""
        latents = self.autoencoder.encode(pixels.to(self.autoencoder.device)).latent
        return latents.float() * self.autoencoder.config.scaling_factor

    def validate(self, model: UNet2DConditionModel) -> tuple[dict[str, float], Image.Image | None]:
        """Return, by timestep, the error on held-out drawings and how well the noun's attention finds its thing."""
        batch, figures = self.held_out, {}
        latents = self.encode(batch.pixels)
        text = encode_prompts(batch.captions, self.tokenizer, self.text_encoder, shortest=True)
        words = [
            find_word(caption, word, self.tokenizer, occurrence=1)
            for caption, word in zip(batch.captions, batch.words, strict=True)
        ]
        grid = (latents.shape[2], latents.shape[3])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        for step in MEASURED_TIMESTEPS:
            noisy = make_noisy(latents, self.scheduler, torch.full((len(latents),), step, device=latents.device), noise)
            with attached(model) as tap:
                tap.latent_size = grid
                tap.word = word_columns(words, text.states.shape[1]).to(latents)
                prediction = model(noisy.noisy, noisy.timesteps, text.states, encoder_attention_mask=text.keep).sample
                relevance = aggregate(list(tap.maps.values()))
            figures[f"error/{step}"] = float(sample_errors(prediction, noisy).mean())
            if batch.regions is not None:
                figures[f"localisation/{step}"] = localisation(relevance, batch.regions)
        if batch.regions is not None:
            figures["localisation/chance"] = chance(batch.regions, grid)
        return figures, self.draw(model) if self.recipe.prompts else None

    def draw(self, model: UNet2DConditionModel) -> Image.Image:
        """Return a sheet of the recipe's prompts, each with the same first noise every time."""
        pipeline = RealCustomPipeline(self.autoencoder, self.text_encoder, self.tokenizer, model, self.sampler)
        pipeline.set_progress_bar_config(disable=True)
        pictures = pipeline(
            self.recipe.prompts,
            height=self.recipe.data.resolution,
            width=self.recipe.data.resolution,
            num_inference_steps=25,
            guidance_scale=self.recipe.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(self.recipe.prompts))],
        ).images
        return sheet(pictures, columns=8)

    def export(self, model: UNet2DConditionModel, folder: Path) -> None:
        """Write the UNet."""
        model.save_pretrained(folder / "unet")


def _regions_on(regions: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(regions[:, None].float(), size, mode="area")[:, 0]


def localisation(relevance: Tensor, regions: Tensor) -> float:
    """Return the mean overlap of the true regions with the most relevant cells, as many as the region has.

    Args:
        relevance: `[b, h, w]`, how much each cell attends to the noun.
        regions: `[b, H, W]` in [0, 1], where the noun's thing is.

    Returns:
        Intersection over union, in [0, 1].
    """
    truth = _regions_on(regions.to(relevance), (relevance.shape[1], relevance.shape[2]))
    shares = (truth >= 0.5).float().mean(dim=(1, 2))
    scores = [
        overlap(influence_scope(relevance[row, None], mask_scope=float(share) + 1e-6, binary=True), truth[row, None])
        for row, share in enumerate(shares)
    ]
    return float(torch.cat(scores).mean())


def chance(regions: Tensor, size: tuple[int, int]) -> float:
    """Return the expected `localisation` of random masks of the regions' size."""
    share = (_regions_on(regions, size) >= 0.5).float().mean(dim=(1, 2)).numpy()
    return float(np.mean(share / (2 - share)))
