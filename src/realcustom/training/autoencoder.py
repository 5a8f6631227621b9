"""Learning the autoencoder: pictures to latents and back.

The latent is the encoder's output plus noise of a fixed size while training, and its square is penalised: a variational
autoencoder whose posterior has one constant variance. Noise makes the decoder forgiving of a diffusion model's small
errors; the penalty keeps the latents' scale bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from realcustom.data.examples import Batch, ExampleSource, collate
from realcustom.errors import InputError
from realcustom.loading import construct, load_strictly
from realcustom.pictures import sheet, to_pictures
from realcustom.training.options import Fixed, Recipe


class AutoencoderRecipe(Recipe):
    """All that a run of `realcustom train autoencoder` needs."""

    autoencoder: Fixed[dict[str, Any]] = {}
    """Arguments of `diffusers.AutoencoderDC`; not read if there is one to start from."""
    initial_autoencoder: Fixed[Path | None] = None
    """Folder of an autoencoder to start from."""
    frozen_encoder: Fixed[bool] = False
    """Train the decoder alone: the latents, and so every model of them, stay what they are."""
    latent_noise: NonNegativeFloat = 0.1
    """Standard deviation of the noise on the latent while training."""
    latent_penalty: NonNegativeFloat = 1e-3
    """Weight of the mean square of the latent."""
    edge_weight: NonNegativeFloat = 1.0
    """Weight of the absolute error of the picture's differences between neighbours."""
    square_weight: NonNegativeFloat = 1.0
    """Weight of the squared error."""
    validation_examples: PositiveInt = 64


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the horizontal and vertical differences of neighbouring pixels of `pixels [b, c, h, w]`."""
    return pixels[..., :, 1:] - pixels[..., :, :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in decibels, `[b]`; pixels `[b, 3, h, w]` in [-1, 1]."""
    error = ((one - other) / 2).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-10).log10()


class AutoencoderObjective:
    """Absolute, squared and edge error of the decoded picture."""

    def __init__(self, recipe: AutoencoderRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        if recipe.frozen_encoder and recipe.initial_autoencoder is None:
            raise InputError("frozen_encoder needs initial_autoencoder: an untrained encoder has nothing to say")
        self.model = (
            load_strictly(AutoencoderDC, recipe.initial_autoencoder)
            if recipe.initial_autoencoder
            else construct(AutoencoderDC, recipe.autoencoder, "autoencoder")
        )
        self.model.encoder.requires_grad_(not recipe.frozen_encoder)
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)]).pixels

    def prepare(self, device: torch.device) -> None:
        """Move what is held out to the device; nothing is frozen."""
        self.held_out = self.held_out.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return one group."""
        return [{"params": [parameter for parameter in self.model.parameters() if parameter.requires_grad]}]

    def loss(self, model: AutoencoderDC, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the errors."""
        recipe, pixels = self.recipe, batch.pixels
        latents = model.encoder(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        decoded = model.decoder(latents + recipe.latent_noise * noise).float()
        absolute = F.l1_loss(decoded, pixels)
        square = F.mse_loss(decoded, pixels)
        edge = sum(F.l1_loss(one, other) for one, other in zip(edges(decoded), edges(pixels), strict=True))
        size = latents.float().square().mean()
        total = absolute + recipe.square_weight * square + recipe.edge_weight * edge + recipe.latent_penalty * size
        return total, {"psnr": float(psnr(decoded.detach(), pixels).mean()), "latent_std": float(size.detach().sqrt())}

    def validate(self, model: AutoencoderDC) -> tuple[dict[str, float], Image.Image | None]:
        """Return the mean PSNR on held-out scenes, also of the mean error, and a sheet of pictures above decoded ones."""
        pixels = self.held_out
        decoded = torch.cat([model.decoder(model.encoder(part)).float().clamp(-1, 1) for part in pixels.split(16)])
        error = ((decoded - pixels) / 2).square().mean()
        figures = {"psnr": float(psnr(decoded, pixels).mean()), "psnr_of_mean_error": float(-10 * error.log10())}
        return figures, sheet(to_pictures(torch.cat([pixels[:8], decoded[:8], pixels[8:16], decoded[8:16]])), columns=8)

    def export(self, model: AutoencoderDC, folder: Path) -> None:
        """Write the autoencoder with the scaling factor that gives its latents unit variance on held-out scenes.

        A frozen encoder keeps its own: models of its latents were trained with it.
        """
        if not self.recipe.frozen_encoder:
            with torch.no_grad():
                latents = model.encoder(self.held_out)
            model.register_to_config(scaling_factor=float(1 / latents.float().std()))
        model.save_pretrained(folder)
