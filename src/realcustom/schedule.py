"""What the noise schedule says of a step, and the schedule of the authors' solver. Pure functions."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, DPMSolverSinglestepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from realcustom.errors import InputError


def alpha_at(alphas_cumprod: Float[Tensor, " T"], timestep: Tensor) -> Float[Tensor, ""]:
    """Return a_t, the square root of the schedule's cumulative product (RC 8), between its steps if `timestep` is."""
    position = timestep.detach().float().cpu().clamp(0, len(alphas_cumprod) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(alphas_cumprod) - 1)
    return torch.lerp(alphas_cumprod[below].float(), alphas_cumprod[above].float(), position - below).sqrt()


def clean_latents(
    noisy: Float[Tensor, "*shape"], prediction: Float[Tensor, "*shape"], alpha: Float[Tensor, ""], prediction_type: str
) -> Float[Tensor, "*shape"]:
    """Return the clean latents that a prediction means.

    Args:
        noisy: z_t, of a variance-preserving schedule.
        prediction: of the UNet.
        alpha: a_t.
        prediction_type: "epsilon", "v_prediction" or "sample".
    """
    sigma = (1 - alpha**2).sqrt()
    if prediction_type == "epsilon":
        return (noisy - sigma * prediction) / alpha
    return prediction if prediction_type == "sample" else alpha * noisy - sigma * prediction


def official_timesteps(num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Return the authors' timesteps: evenly spaced, rounded, the first one the noisiest."""
    spaced = torch.arange(num_inference_steps, dtype=torch.float64) * (num_train_timesteps / num_inference_steps)
    return (num_train_timesteps - 1 - spaced).round().long().tolist()


def official_orders(num_inference_steps: int) -> list[int]:
    """Return the orders of the authors' solver: 1, 1, 2, 1, 2 and so on, whichever order that ends with."""
    return [2 if step and step % 2 == 0 else 1 for step in range(num_inference_steps)]


def official_scheduler(
    scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device | str
) -> SchedulerMixin:
    """Return a scheduler like another one, set to the authors' steps: their timesteps, orders and last sigma.

    Raises:
        InputError: the scheduler is none of those that the authors have.
    """
    if isinstance(scheduler, DPMSolverSinglestepScheduler):
        theirs = {"final_sigmas_type": "sigma_min", "solver_order": 2, "lower_order_final": False}
        plain = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
        official = DPMSolverSinglestepScheduler.from_config(scheduler.config, **theirs, **plain)
        steps = official_timesteps(num_inference_steps, official.config.num_train_timesteps)
        official.set_timesteps(timesteps=steps, device=device)
        official.order_list = official_orders(num_inference_steps)
    elif isinstance(scheduler, DDIMScheduler):
        official = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
        official.set_timesteps(num_inference_steps, device=device)
    else:
        raise InputError(
            f"compat='official' knows DPMSolverSinglestepScheduler and DDIMScheduler, but the pipeline has a "
            f"{type(scheduler).__name__}"
        )
    return official
