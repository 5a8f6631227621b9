"""The diffusion loss that bases and adapters share (RC 1, 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from torch import Tensor

from realcustom.errors import InputError


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


def draw_noisy(latents: Tensor, scheduler: DDPMScheduler, generator: torch.Generator) -> NoisyBatch:
    """Return the latents at uniformly random timesteps with random noise, both from `generator`, on its device."""
    steps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    return make_noisy(latents, scheduler, steps.to(latents.device), noise.to(latents))


def sample_errors(prediction: Tensor, batch: NoisyBatch) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error."""
    return (prediction.float() - batch.target.float()).square().mean(dim=(1, 2, 3))


def snr_weights(scheduler: DDPMScheduler, timesteps: Tensor, snr_gamma: float | None) -> Float[Tensor, " b"]:
    """Return each sample's loss weight: 1, or the min-SNR weight of the scheduler's prediction type."""
    if snr_gamma is None:
        return torch.ones(len(timesteps), device=timesteps.device)
    snr = compute_snr(scheduler, timesteps)
    clipped = snr.clamp(max=snr_gamma)
    per_type = {"epsilon": clipped / snr, "v_prediction": clipped / (snr + 1), "sample": clipped}
    return per_type[scheduler.config.prediction_type]
