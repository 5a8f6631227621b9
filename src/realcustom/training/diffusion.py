"""The diffusion loss that bases and adapters share (RC 1, 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from realcustom.errors import InputError
from realcustom.latents import Autoencoder, to_latents
from realcustom.prompts import TextStates


@dataclass(frozen=True)
class NoisyBatch:
    """Latents at random noise levels, and what the model has to say about them."""

    noisy: Float[Tensor, "b c h w"]
    timesteps: Int[Tensor, " b"]
    target: Float[Tensor, "b c h w"]
    """Noise, velocity or clean latents, as the scheduler's `prediction_type` says."""
    alpha: Float[Tensor, " b"]
    """a_t, the square root of the cumulative product of the schedule."""


def make_noisy(
    latents: Float[Tensor, "b c h w"], scheduler: DDPMScheduler, timesteps: Int[Tensor, " b"], noise: Tensor
) -> NoisyBatch:
    """Return the latents at the given timesteps, with the prediction target of the scheduler's own type.

    Raises:
        InputError: the scheduler predicts something else than noise, velocity or the sample.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    elif kind == "sample":
        target = latents
    else:
        raise InputError(f"prediction_type must be epsilon, v_prediction or sample, but the scheduler says {kind!r}")
    alpha = scheduler.alphas_cumprod.to(latents.device)[timesteps].sqrt()
    return NoisyBatch(noisy, timesteps, target, alpha)


def draw_noisy(
    latents: Tensor, scheduler: DDPMScheduler, generator: torch.Generator, *, timestep_shift: float = 1.0
) -> NoisyBatch:
    """Return the latents at random timesteps with random noise, both from `generator`, on its device.

    Args:
        latents: clean ones, `[b, c, h, w]`.
        scheduler: of the model.
        generator: of everything random.
        timestep_shift: 1 draws all timesteps alike; larger values draw noisy ones more often: a share u of the schedule
            becomes s u / (1 + (s - 1) u).
    """
    count = scheduler.config.num_train_timesteps
    share = (torch.randint(0, count, (len(latents),), generator=generator) + 0.5) / count
    steps = (count * timestep_shift * share / (1 + (timestep_shift - 1) * share)).long()
    noise = torch.randn(latents.shape, generator=generator)
    return make_noisy(latents, scheduler, steps.to(latents.device), noise.to(latents))


@torch.no_grad()
def encode(vae: Autoencoder, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
    """Return the scaled latents of pixels in [-1, 1], float32."""
    return to_latents(vae, pixels).float()


def predict_noisy(unet: nn.Module, batch: NoisyBatch, text: TextStates) -> Float[Tensor, "b c h w"]:
    """Return a UNet's prediction for noisy latents under their texts."""
    return unet(
        batch.noisy, batch.timesteps, text.states, encoder_attention_mask=text.keep,
        added_cond_kwargs=dict(text.added) or None,
    ).sample  # fmt: skip


def sample_errors(
    prediction: Tensor, batch: NoisyBatch, weights: Float[Tensor, "b h w"] | None = None
) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error; the mean over the cells is weighted if there are weights."""
    errors = (prediction.float() - batch.target.float()).square().mean(dim=1)
    if weights is None:
        return errors.mean(dim=(1, 2))
    return (weights * errors).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))
