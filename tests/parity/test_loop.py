"""The authors' whole loop, as `compat="official"` runs it, step by step."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverSinglestepScheduler

from parity.official import about, deviation, tensors, weights
from realcustom.attention import attached
from realcustom.branches import Branches
from realcustom.convert import adapter_of, unet_of
from realcustom.customization import Actor, Customization, Reference
from realcustom.masks import resize_mask_by_height
from realcustom.pipeline import RealCustomPipeline
from realcustom.prompts import TextStates
from realcustom.schedule import official_scheduler
from realcustom.settings import Guidance, MaskSettings

TOLERANCE = 5e-4
LOOP = about("loop")["loop"]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def parts():
    config, state = about("loop")["config"], weights("unet")
    branch = {key: one for key, one in state.items() if "vision" in key}
    return unet_of({key: state[key] for key in state.keys() - branch.keys()}, config), adapter_of(branch, config)[0]


@torch.no_grad()
def run(parts, scheduler=None, **mask):
    """Return latents, masks and guided predictions of every step, and what is decoded."""
    golden, (unet, adapter) = tensors("loop"), parts
    scheduler = scheduler or DPMSolverSinglestepScheduler(**SCHEDULE)
    vae = AutoencoderKL(block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
                        up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
    pipeline = RealCustomPipeline(vae, None, None, unet, scheduler, adapter)
    pipeline.set_progress_bar_config(disable=True)
    samples, steps = LOOP["samples"], LOOP["steps"]
    texts = [
        TextStates(
            golden[f"input.text{kind}"], None,
            {"text_embeds": golden[f"input.pooled{kind}"], "time_ids": golden["input.time_ids"][:1]},
        ).repeat(samples, torch.float32)
        for kind in ("", "_negative")
    ]  # fmt: skip
    references = []
    for kind in ("", "_zero_image"):
        tokens = adapter.tokens(*(golden[f"input.{name}{kind}"] for name in ("deep", "deep_local")))
        tokens = tokens.repeat_interleave(samples, dim=0)
        references.append(Reference(tokens, adapter.keys_values(tokens)))
    scheduler = pipeline.scheduler = official_scheduler(scheduler, steps, "cpu")
    found = {"latents": [], "guided": []}
    stepped = scheduler.step

    def step(prediction, *args, **kwargs):
        found["guided"].append(prediction)
        return stepped(prediction, *args, **kwargs)

    scheduler.step = step

    def remember(_, __, ___, known):
        found["latents"].append(known["latents"])
        return {}

    latent = golden["input.latent0"]
    grid = (latent.shape[2] // 2, latent.shape[3] // 2)
    with attached(unet) as tap:
        tap.latent_size, tap.resize = tuple(latent.shape[2:]), resize_mask_by_height
        settings = MaskSettings(
            **{"mask_scope": LOOP["mask_scope"], "mask_frozen_after": LOOP["mask_reused_step"], **mask}
        )
        columns = golden["input.target_token"].expand(samples, -1)[..., None]
        actors = [Actor([references[0]], columns, torch.ones(samples))]
        evaluations = len(scheduler.timesteps)
        customization = Customization(adapter, tap, texts[0], actors, grid, evaluations, settings)
        guidance = Guidance("direct", LOOP["guidance"], LOOP["guidance"])
        branches = Branches(
            unet, scheduler.alphas_cumprod, *texts, guidance, evaluations, customization, [[references[1]]]
        )
        pipeline._interrupt = False
        clean = pipeline.denoise(latent, branches, decode_clean=True, callback_on_step_end=remember)
    return {name: torch.stack(one) for name, one in found.items()} | {
        "masks": torch.stack(customization.masks)[:, 0],
        "clean": clean,
    }


@pytest.mark.parametrize(
    ("strategy", "normalization"), [("max_norm", "max"), ("min_max_per_channel", "min_max_per_layer")]
)
def test_every_step(parts, strategy, normalization):
    golden, found = tensors("loop"), run(parts, mask_normalization=normalization)
    expected = golden[f"{strategy}.masks"][:, :, 0]
    assert torch.equal(found["masks"] == 0, expected == 0)
    assert deviation(found["masks"], expected) < TOLERANCE
    assert deviation(found["guided"], golden[f"{strategy}.guided"]) < TOLERANCE
    assert deviation(found["latents"], golden[f"{strategy}.latents"]) < TOLERANCE
    assert deviation(found["clean"], golden[f"{strategy}.final_pred_original_sample"]) < TOLERANCE
    assert deviation(found["clean"], golden[f"{strategy}.x0"][-1]) < TOLERANCE


def test_ddim(parts):
    found = run(parts, DDIMScheduler(**SCHEDULE, clip_sample=False))
    assert deviation(found["latents"], tensors("loop")["extra_ddim_max_norm.latents"]) < TOLERANCE


def test_a_mask_in_every_step(parts):
    golden, found = tensors("loop"), run(parts, mask_frozen_after=99)
    assert torch.equal(found["masks"] == 0, golden["extra_reuse99_max_norm.masks"][:, :, 0] == 0)
    assert deviation(found["latents"][-1], golden["extra_reuse99_max_norm.final_latent"]) < TOLERANCE


def test_binary_masks(parts):
    found = run(parts, mask_binary=True)
    assert found["masks"].unique().tolist() == [0, 1]
    assert deviation(found["latents"][-1], tensors("loop")["extra_binary_max_norm.final_latent"]) < TOLERANCE


def test_the_timesteps(parts):
    scheduler = DPMSolverSinglestepScheduler(**SCHEDULE)
    scheduler = official_scheduler(scheduler, LOOP["steps"], "cpu")
    assert scheduler.timesteps.tolist() == tensors("loop")["timesteps"].tolist()
