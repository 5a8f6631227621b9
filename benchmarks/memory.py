"""How much memory of a GPU each family needs, counted from the sizes of its tensors: nothing is computed and nothing measured.

    python benchmarks/memory.py

Weights are those of the configurations that the families were published with, in float16; what a call of the UNet and the
decoder hold at their peak is followed tensor by tensor on tensors without numbers. A real device adds what its libraries
need, some 0.5 to 1 GB, and an autoencoder that is run in float32 needs twice its share. "offloaded" is with
`enable_model_cpu_offload` (one model at a time), "tiled" with `vae.enable_tiling`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from full_size import FEATURES, SDXL, TOKENS
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers.initialization import no_init_weights

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import Influence, View, attached, cross_attention_layers

GIGABYTE = 2**30
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def size(*modules: nn.Module) -> float:
    """Return the gigabytes of modules' weights."""
    return (
        sum(one.numel() * one.element_size() for module in modules for one in module.state_dict().values()) / GIGABYTE
    )


def peak(module: nn.Module, call: Callable[[], Any]) -> float:
    """Return the gigabytes that a call holds at its peak beside the weights of a module."""
    tracker = MemTracker()
    tracker.track_external(module)
    with tracker:
        call()
    return sum(told["Total"] for told in tracker.get_tracker_snapshot("peak").values()) / GIGABYTE - size(module)


def family(
    unet_config: dict[str, Any], texts: list[nn.Module], encoders: list[nn.Module], plus: bool, side: int
) -> str:
    """Return a row of the table."""
    unet = diffusers.UNet2DConditionModel(**unet_config).eval()
    vae = diffusers.AutoencoderKL(**VAE, sample_size=1024 if plus else 512).eval()
    config = {"feature_dim": FEATURES, "token_dim": 2048, "scoring_dim": 0, "cross_scale": {"head_dim": 64}}
    if not plus:
        config = {"feature_dim": 1024, "token_dim": 1024}
    adapter = RealCustomAdapter.for_unet(unet, **config)
    tokens = TOKENS if plus else 257
    widths = sum(layer.inner_dim for layer in cross_attention_layers(unet).values())
    cache = tokens * widths * 2 * 2 / GIGABYTE
    cells, told = side // 8, {}
    if "addition_embed_type" in unet_config:
        told = {"text_embeds": torch.zeros(2, 1280), "time_ids": torch.zeros(2, 6)}
    noisy, states = torch.zeros(2, 4, cells, cells), torch.zeros(2, 77, unet.config.cross_attention_dim)
    with attached(unet) as tap:
        tap.latent_size = (cells, cells)
        keys_values = {
            name: (torch.zeros(1, tokens, layer.inner_dim),) * 2 for name, layer in cross_attention_layers(unet).items()
        }
        tap.subjects = [Influence([View(keys_values)], mask=torch.zeros(1, cells, cells))]
        denoising = peak(unet, lambda: unet(noisy, torch.tensor(5), states, added_cond_kwargs=told))
    decoding = peak(vae, lambda: vae.decode(torch.zeros(1, 4, cells, cells)))
    tile = min(cells, (1024 if plus else 512) // 8)  # diffusers tiles what is larger than the family's own pictures
    tiled = peak(vae, lambda: vae.decode(torch.zeros(1, 4, tile, tile)))
    parts = [size(unet), size(*texts), size(*encoders), size(adapter), size(vae)]
    whole = sum(parts) + cache
    offloaded = max(parts[0] + parts[3] + cache + denoising, parts[4] + tiled, parts[1], parts[2])
    cells_of_row = [
        *parts,
        cache,
        denoising,
        decoding,
        tiled,
        whole + max(denoising, decoding),
        whole + max(denoising, tiled),
    ]
    return " | ".join(f"{number:5.2f}" for number in [*cells_of_row, offloaded])


def main() -> None:
    """Count and print."""
    torch.set_default_dtype(torch.float16)
    with FakeTensorMode(), torch.no_grad(), no_init_weights():
        one = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP_L))
        two = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**CLIP_G, projection_dim=1280))
        clip = transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
            )
        )
        siglip = transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(
                hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
                patch_size=14,
            )
        )  # fmt: skip
        dino = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
        )
        names = "UNet, texts, encoders, RealCustom, VAE, keys and values, denoising, decoding, tiled, all, tiled all, offloaded"
        print(f"gigabytes, float16, one picture at a time: {names}")
        for side in (512, 768):
            print(f"SD 1.5, RealCustom, {side} px | {family(SD15, [one], [clip], False, side)}")
        for side in (768, 1024):
            print(f"SDXL, RealCustom++, {side} px | {family(SDXL, [one, two], [siglip, dino], True, side)}")


if __name__ == "__main__":
    main()
