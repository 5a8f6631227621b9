"""RealCustom++ on SDXL at full size with random weights: time and memory of building, loading and of one exact step.

    python benchmarks/full_size.py [--side 512]

Every tensor has the name and the size that it has in the authors' files; only the numbers are random. The files are written
and read once, as `realcustom convert` reads them. Needs about 7 GB of memory and 6 GB on the disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import attached, attention_grid, cross_attention_layers
from realcustom.convert import convert_unet
from realcustom.customization import Actor, Customization, Reference
from realcustom.guidance import direct_guidance
from realcustom.prompts import TextStates
from realcustom.settings import MaskSettings

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
    for part in (unet, adapter):
        _fill(part)
    built = time.monotonic() - started
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("unet.safetensors", "RealCustom.safetensors")]
        for file, state in zip(files, (unet.state_dict(), _official_names(adapter)), strict=True):
            save_file(state, file)
        del unet, adapter, state
        written = time.monotonic() - started
        started = time.monotonic()
        converted = convert_unet(files, SDXL)
        assert converted.unet is not None
        assert converted.adapter is not None
        unet, adapter = converted.unet, converted.adapter.to(torch.bfloat16)
        loaded = time.monotonic() - started
    parameters = [sum(one.numel() for one in part.parameters()) for part in (unet, adapter)]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.bfloat16)

    pixels = float(8 * side)
    time_ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]).bfloat16()
    told = {"text_embeds": random(1, 1280), "time_ids": time_ids}
    text, negative = (TextStates(random(1, 77, 2048), None, told) for _ in range(2))
    latents, timestep = random(1, 4, side, side), torch.tensor(500)
    with torch.no_grad(), attached(unet) as tap:
        tap.latent_size = (side, side)

        def predict(states: TextStates) -> torch.Tensor:
            return unet(latents, timestep, states.states, added_cond_kwargs=dict(states.added)).sample

        started = time.monotonic()
        tokens = adapter.tokens(random(1, TOKENS, FEATURES), random(1, 4 * TOKENS, FEATURES))
        reference = Reference(tokens, adapter.keys_values(tokens))
        encoded = time.monotonic() - started
        columns = torch.zeros(1, 77, 1)
        columns[0, 2] = 1
        grid = attention_grid(unet, (side, side))
        settings = MaskSettings(mask_normalization="min_max_per_layer")
        actor = Actor([reference], columns, torch.ones(1))
        customization = Customization(adapter, tap, text, [actor], grid, 25, settings)
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
    seconds = {
        "build": built, "write": written, "load": loaded, "subject": encoded, "text": of_text,
        "text and subject": of_subject, "negative": of_negative,
    }  # fmt: skip
    print(
        json.dumps(
            {
                "parameters": dict(zip(("unet", "adapter"), parameters, strict=True)),
                "cross_attention_layers": len(layers),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "finite": bool(torch.isfinite(guided).all()),
                "mask_cells": int((customization.masks[-1] > 0).sum()),
                "threads": torch.get_num_threads(),
            },
            indent=1,
        )
    )  # fmt: skip


def _official_names(adapter: RealCustomAdapter) -> dict[str, torch.Tensor]:
    """Return the state of an adapter under the authors' names."""
    parts = {"base": "projector_base", "local_attention": "min_attention", "local_mlp": "projector"}
    named = {}
    for key, tensor in adapter.state_dict().items():
        kind, _, rest = key.partition(".")
        if kind == "projector":
            part, _, inside = rest.partition(".")
            named[f"encoder_hidden_states_vision_projection.{parts[part]}.{inside}"] = tensor
        else:
            layer = rest.removesuffix(".weight").replace("-", ".")
            named[f"{layer}.{kind}_vision.weight"] = tensor
    return named


def _fill(part: torch.nn.Module) -> None:
    """Give a model on the meta device random numbers of a size that keeps activations in range."""
    part.to(torch.bfloat16).to_empty(device="cpu").eval()
    for name, parameter in part.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)


if __name__ == "__main__":
    main()
