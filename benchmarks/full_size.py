"""RealCustom++ on SDXL at full size with random weights: time and memory of building it and of one exact step.

    python benchmarks/full_size.py [--side 512]

Needs about 8 GB. Every tensor has the size that it has in the published weights; only the numbers are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch
from diffusers import UNet2DConditionModel

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import attached, attention_grid, cross_attention_layers
from realcustom.customization import Customization, MaskSettings, SubjectViews
from realcustom.guidance import direct_guidance
from realcustom.prompts import TextStates

SDXL = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "cross_attention_dim": 2048, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
FEATURES, TOKENS = 2176, 729
"""Width of SigLIP's and DINOv2's features side by side, and how many there are of a picture."""


def main() -> None:
    """Build, run one step, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    side = parser.parse_args().side // 8
    torch.manual_seed(0)
    started = time.monotonic()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
        layers = {name: layer.inner_dim for name, layer in cross_attention_layers(unet).items()}
        adapter = RealCustomAdapter(
            layers=layers, text_dim=2048, latent_channels=4, feature_dim=FEATURES, token_dim=2048, scoring_dim=0,
            cross_scale={"head_dim": 64},
        )  # fmt: skip
    unet, adapter = (_filled(part) for part in (unet, adapter))
    parameters = [sum(one.numel() for one in part.parameters()) for part in (unet, adapter)]
    built = time.monotonic() - started

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.bfloat16)

    told = {"text_embeds": random(1, 1280), "time_ids": torch.tensor([[512.0, 512, 0, 0, 512, 512]]).bfloat16()}
    text, negative = (TextStates(random(1, 77, 2048), None, told) for _ in range(2))
    latents, timestep = random(1, 4, side, side), torch.tensor(500)
    with torch.no_grad(), attached(unet) as tap:
        tap.latent_size = (side, side)

        def predict(states: TextStates) -> torch.Tensor:
            return unet(latents, timestep, states.states, added_cond_kwargs=dict(states.added)).sample

        started = time.monotonic()
        tokens = adapter.tokens(random(1, TOKENS, FEATURES), random(1, 4 * TOKENS, FEATURES))
        views = SubjectViews(tokens, adapter.keys_values(tokens), text)
        encoded = time.monotonic() - started
        columns = torch.zeros(1, 77)
        columns[0, 2] = 1
        grid = attention_grid(unet, (side, side))
        settings = MaskSettings(normalization="min_max_per_layer")
        customization = Customization(adapter, tap, views, columns, torch.ones(1), grid, settings)
        started = time.monotonic()
        with customization.watching():
            predict(text)
        of_text = time.monotonic() - started
        customization.find_mask()
        started = time.monotonic()
        with customization.acting(latents, torch.tensor(0.5), torch.arange(1)):
            painted = predict(text)
        of_subject = time.monotonic() - started
        started = time.monotonic()
        guided = direct_guidance(predict(negative), painted, guidance_scale=3.5)
        of_negative = time.monotonic() - started
    print(
        json.dumps(
            {
                "parameters": dict(zip(("unet", "adapter"), parameters, strict=True)),
                "cross_attention_layers": len(layers),
                "seconds": {
                    "build": round(built, 1), "subject": round(encoded, 1), "text": round(of_text, 1),
                    "text and subject": round(of_subject, 1), "negative": round(of_negative, 1),
                },
                "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "finite": bool(torch.isfinite(guided).all()),
                "mask_cells": int((customization.masks[-1] > 0).sum()),
                "threads": torch.get_num_threads(),
            },
            indent=1,
        )
    )  # fmt: skip


def _filled(part: torch.nn.Module) -> torch.nn.Module:
    """Return a model on the meta device with random numbers of a size that keeps activations in range."""
    part = part.to(torch.bfloat16).to_empty(device="cpu").eval()
    for name, parameter in part.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return part


if __name__ == "__main__":
    main()
