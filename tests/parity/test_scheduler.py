from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverSinglestepScheduler

from parity.official import about, deviation, tensors
from realcustom.schedule import alpha_at, clean_latents, official_orders, official_scheduler, official_timesteps

TOLERANCE = 1e-4
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EXTRAS = {
    "epsilon": {},
    "epsilon_clip": {"clip_sample": True},
    "epsilon_eta0.5": {},
    "epsilon_dyn0.95": {"thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1e9},
    "v_prediction": {},
    "sample": {},
}


def fake_model(latents):
    return latents.sin() * 0.1 + latents * 0.5


def extras(kind, number, steps):
    """Return what else a step of diffusers' DDIM is told; the authors take the noise again from the clipped picture."""
    if "eta" in kind:
        return {"eta": 0.5, "variance_noise": tensors("scheduler")[f"ddim.{steps}.variance_noise"][number]}
    return {"use_clipped_model_output": True} if "clip" in kind or "dyn" in kind else {}


@pytest.mark.parametrize("run", about("scheduler")["runs"])
def test_trajectories(run):
    golden = tensors("scheduler")
    solver, steps, kind = run.split(".", 2)
    count = int(steps.removeprefix("steps"))
    settings = {"prediction_type": kind.split("_")[0] if kind.startswith("epsilon") else kind, **SCHEDULE}
    if solver == "dpm":
        scheduler = DPMSolverSinglestepScheduler(**settings)
    else:
        scheduler = DDIMScheduler(**{"clip_sample": False, **settings, **EXTRAS[kind]})
    scheduler = official_scheduler(scheduler, count, "cpu")
    assert scheduler.timesteps.tolist() == golden[f"{solver}.{steps}.timesteps"].tolist()
    latents, found, clean = golden["sample0"], [], []
    for number, timestep in enumerate(scheduler.timesteps):
        prediction = fake_model(latents)
        alpha = alpha_at(scheduler.alphas_cumprod, timestep)
        clean.append(clean_latents(latents, prediction, alpha, scheduler.config.prediction_type))
        latents = scheduler.step(prediction, timestep, latents, **extras(kind, number, steps)).prev_sample
        found.append(latents)
    assert deviation(torch.stack(found), golden[f"{run}.latents"]) < TOLERANCE
    if "clip" not in kind and "dyn" not in kind:
        assert deviation(torch.stack(clean), golden[f"{run}.pred_original_sample"]) < TOLERANCE
    elif kind == "epsilon_clip":
        assert deviation(torch.stack(clean).clamp(-1, 1), golden[f"{run}.pred_original_sample"]) < TOLERANCE


@pytest.mark.parametrize(
    ("count", "orders"), [(int(count), one["used"]) for count, one in about("scheduler")["orders"].items()]
)
def test_orders(count, orders):
    assert official_orders(count) == orders


def test_the_schedule():
    golden = tensors("scheduler")
    scheduler = DDIMScheduler(**SCHEDULE)
    torch.testing.assert_close(scheduler.betas, golden["betas"], atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(scheduler.alphas_cumprod, golden["alphas_cumprod"], atol=1e-6, rtol=1e-5)
    alphas = torch.stack([alpha_at(scheduler.alphas_cumprod, torch.tensor(step)) for step in range(1000)])
    torch.testing.assert_close(alphas, golden["alpha_t"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close((1 - alphas**2).sqrt(), golden["sigma_t"], atol=1e-5, rtol=1e-4)
    solver = DPMSolverSinglestepScheduler(**SCHEDULE)
    torch.testing.assert_close(solver.lambda_t, golden["lambda_t"], atol=1e-4, rtol=1e-4)


def test_noise_is_added_as_by_the_authors():
    golden = tensors("scheduler")
    found = DDIMScheduler(**SCHEDULE).add_noise(golden["sample0"], golden["add_noise.noise"], golden["add_noise.t"])
    assert deviation(found, golden["add_noise.out"]) < TOLERANCE


SPACINGS = sorted(key for key in tensors("scheduler") if key.startswith("timesteps."))


@pytest.mark.parametrize("key", SPACINGS)
def test_spacings(key):
    expected = tensors("scheduler")[key].tolist()
    _, spacing, count = key.split(".")
    if spacing == "trailing":
        assert official_timesteps(int(count)) == expected
        return
    scheduler = DDIMScheduler(timestep_spacing=spacing, **SCHEDULE)
    scheduler.set_timesteps(int(count))
    if 1000 % int(count) and spacing == "leading":  # there the authors' list is longer than it was asked to be
        assert len(expected) == int(count) + 1
        assert expected[1:] == scheduler.timesteps.tolist()
    else:
        np.testing.assert_array_equal(scheduler.timesteps, expected)
