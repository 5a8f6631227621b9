"""The files that the method's authors published, under their key names, as parts of this package.

The only place that reads pickles, and only with `weights_only=True`, which makes tensors and plain values of them and runs
nothing. Keys that are not expected are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SiglipVisionConfig, SiglipVisionModel

from realcustom.adapter import RealCustomAdapter
from realcustom.checks import check_state, check_tensors
from realcustom.errors import CheckpointMismatch, InputError

State = Mapping[str, Tensor]

_PROJECTOR = "encoder_hidden_states_vision_projection."
_VISION_KEY = re.compile(r"(?P<layer>.+)\.to_(?P<part>[kv])_vision\.weight")
_PROJECTOR_NAMES = {
    "projector_base": "base",
    "min_attention2": "shallow_attention",
    "projector2": "shallow_mlp",
    "min_attention": "local_attention",
    "projector": "local_mlp",
}
"""The authors' names of the projector's parts, and ours."""


@dataclass(frozen=True)
class Converted:
    """What files of the authors hold."""

    adapter: RealCustomAdapter | None
    """The RealCustom part, if the files hold it."""
    unet: UNet2DConditionModel | None
    """The base's UNet, if they hold it."""
    sources: Mapping[str, Sequence[str]]
    """For each file what was found in it."""
    dropped: Sequence[str]
    """Keys that the authors' code loads and never uses."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a pickled state dict.

    Raises:
        InputError: it holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle can make the unpickler raise anything
        if type(error).__name__ == "UnpicklingError":  # torch's own words advise to run what the file holds
            raise InputError(
                f"{path} is no file of tensors as PyTorch or safetensors write it, or holds more"
            ) from error
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path} cannot be read as a state dict: {type(error).__name__}: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict, that is names and tensors")
    return dict(state)


def join(states: Mapping[Path, State]) -> dict[str, Tensor]:
    """Return the tensors of several files together.

    Raises:
        InputError: two files disagree about a key.
    """
    joined: dict[str, Tensor] = {}
    origin: dict[str, Path] = {}
    for path, state in states.items():
        for key, tensor in state.items():
            if key in joined and not torch.equal(joined[key], tensor):
                raise InputError(f"{origin[key]} and {path} disagree about {key}; name only the one that you want")
            joined.setdefault(key, tensor)
            origin.setdefault(key, path)
    return joined


def convert_unet(files: Sequence[Path], config: Mapping[str, Any]) -> Converted:
    """Return the UNet and the RealCustom part that one or more files hold together, in whichever order they are named.

    Args:
        files: the authors' `.pth` or `.bin` files, or safetensors with the same keys.
        config: the authors' configuration of the UNet (`sdxl.json` or the like).

    Raises:
        InputError: two files disagree about a key, or there is none that is known.
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    states = {path: read_state(path) for path in files}
    joined = join(states)
    ours, base = _partition(joined, lambda key: key.startswith(_PROJECTOR) or _VISION_KEY.fullmatch(key) is not None)
    if not joined:
        raise InputError("the files hold no tensors")
    adapter, dropped = adapter_of(ours, config) if ours else (None, [])
    sources = {
        str(path): [
            f"{count} keys of the {part}"
            for part, kind in (("RealCustom part", ours), ("UNet", base))
            if (count := sum(key in kind for key in state))
        ]
        for path, state in states.items()
    }
    return Converted(adapter, unet_of(base, config) if base else None, sources, dropped)


def unet_of(state: State, config: Mapping[str, Any]) -> UNet2DConditionModel:
    """Return the stock UNet with the weights of the base, under diffusers' own names.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_stock(config))
    check_state("the UNet's part", unet.state_dict(), state)
    unet.load_state_dict(dict(state), assign=True)
    return unet.eval()


def adapter_of(state: State, config: Mapping[str, Any]) -> tuple[RealCustomAdapter, list[str]]:
    """Return the RealCustom part of a state dict under the authors' names, and the keys that their code never uses.

    The released variant with shallow features computes detail of the picture at double size and then drops it; its weights
    are left out.

    Args:
        state: keys of the visual keys and values, and of the projector.
        config: of the authors' UNet; says how wide a head of the projector's attention is.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    projections = {key: match for key in state if (match := _VISION_KEY.fullmatch(key))}
    inside = {key.removeprefix(_PROJECTOR): tensor for key, tensor in state.items() if key not in projections}
    widths = {
        match["layer"]: state[key].shape[0] for key, match in projections.items() if match["part"] == "k"
    }  # in the order of the file
    base = inside.get("projector_base.weight")
    if base is None or not widths:
        raise CheckpointMismatch(
            "the RealCustom part",
            [f"{_PROJECTOR}projector_base.weight" if base is None else "*.to_k_vision.weight"],
            [],
            [],
        )
    shallow = any(key.startswith("projector2.") for key in inside)
    dropped = [key for key in inside if shallow and key.startswith(("min_attention.", "projector."))]
    params = (config.get("image_prompt_settings") or {}).get("vision_projection_config", {}).get("params", {})
    adapter = RealCustomAdapter(
        layers=widths,
        text_dim=base.shape[0],
        latent_channels=config["in_channels"],
        feature_dim=base.shape[1],
        token_dim=base.shape[0],
        cross_scale={
            "head_dim": params.get("dim_head", 64),
            "local": not shallow,
            "shallow": shallow,
            "adaptive_scale": "scale_value.value" in inside,
        },
        scoring_dim=0,
        feature_layers=_feature_layers(config, shallow=shallow),
    )
    renamed = {f"projector.{projector_key(key)}": tensor for key, tensor in inside.items() if key not in dropped}
    for key, match in projections.items():
        renamed[f"to_{match['part']}.{match['layer'].replace('.', '-')}.weight"] = state[key]
    check_state("the RealCustom part", adapter.state_dict(), renamed)
    adapter.load_state_dict(renamed)
    return adapter.eval(), [_PROJECTOR + key for key in dropped]


def _feature_layers(config: Mapping[str, Any], *, shallow: bool) -> dict[str, list[int]]:
    """Return which layers of the encoders the authors' configuration names; their high-resolution variant's if it names none.

    Raises:
        InputError: the variant with shallow features is given without the layers that they come from.
    """
    encoders = ((config.get("vision_model_config") or {}).get("vision_model_config") or {}).get("params") or {}
    named = {name: encoders.get(f"{name}_config", {}).get("feature_index") for name in ("siglip", "dino")}
    layers = {
        name: sorted(index) if isinstance(index, list) else [default if index is None else index]
        for (name, index), default in zip(named.items(), (25, 22), strict=True)
    }
    if shallow and min(len(one) for one in layers.values()) < 2:
        raise InputError(
            "the variant with shallow features needs the authors' configuration, whose vision_model_config names the layers"
        )
    return layers


def projector_key(key: str) -> str:
    """Return our name of a tensor of the authors' projector."""
    if key == "scale_value.value":
        return "local_scale"
    part, _, rest = key.partition(".")
    return f"{_PROJECTOR_NAMES.get(part, part)}.{rest}"


_SIGLIP_NAMES = {
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^pos_embed$": "embeddings.position_embedding.weight",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.": "encoder.layers.",
    r"\.norm(\d)\.": r".layer_norm\1.",
    r"\.attn\.proj\.": ".self_attn.out_proj.",
    r"\.attn\.(query|key|value)\.": lambda match: f".self_attn.{match[1][0]}_proj.",
    r"^": "vision_model.",
}
_DINO_NAMES = {
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^cls_token$": "embeddings.cls_token",
    r"^reg_token$": "embeddings.register_tokens",
    r"^norm\.": "layernorm.",
    r"^blocks\.": "encoder.layer.",
    r"\.ls(\d)\.gamma$": r".layer_scale\1.lambda1",
    r"\.attn\.proj\.": ".attention.output.dense.",
    r"\.attn\.(query|key|value)\.": r".attention.attention.\1.",
}
"""timm's names of the parts of an encoder, and those that transformers' own files of it have on the hub."""


def siglip_of(state: State, *, heads: int = 16, image_size: int = 384) -> SiglipVisionModel:
    """Return transformers' SigLIP image encoder of a state dict under timm's or open_clip's names.

    The text tower and the pooling head, which are not used, are left out.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    unused = ("text.", "visual.trunk.attn_pool.", "attn_pool.", "logit_scale", "logit_bias")
    trunk = {key.removeprefix("visual.trunk."): one for key, one in state.items() if not key.startswith(unused)}
    shapes = _shapes(trunk, "the SigLIP encoder")
    config = SiglipVisionConfig(**shapes.common(), num_attention_heads=heads, image_size=image_size,
                                intermediate_size=shapes.hidden_mlp)  # fmt: skip
    config.vision_use_head = False
    config.hidden_act = "gelu"  # timm's variant of patch size 14, which the authors load, has the exact one
    trunk["pos_embed"] = _resampled(trunk["pos_embed"], image_size // shapes.patch)[0]
    return _loaded(SiglipVisionModel, config, renamed(_split(trunk), _SIGLIP_NAMES), "the SigLIP encoder")


def dinov2_of(state: State, *, heads: int = 16, image_size: int = 384) -> Dinov2WithRegistersModel:
    """Return transformers' DINOv2 with registers of a state dict under timm's names.

    timm gives class and register tokens no position, and brings the positions of the others to the grid of `image_size`.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    left = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    shapes = _shapes(left, "the DINOv2 encoder", "cls_token", "reg_token")
    config = Dinov2WithRegistersConfig(**shapes.common(), num_attention_heads=heads, image_size=image_size,
                                       mlp_ratio=shapes.hidden_mlp // shapes.hidden,
                                       num_register_tokens=left["reg_token"].shape[1])  # fmt: skip
    nowhere = torch.zeros_like(left["cls_token"])
    left["pos_embed"] = torch.cat([nowhere, _resampled(left["pos_embed"], image_size // shapes.patch)], dim=1)
    named = {**renamed(_split(left), _DINO_NAMES), "embeddings.mask_token": nowhere[0]}
    return _loaded(Dinov2WithRegistersModel, config, named, "the DINOv2 encoder")


@dataclass(frozen=True)
class _Shapes:
    """What the tensors of a vision transformer say about its configuration."""

    hidden: int
    hidden_mlp: int
    depth: int
    patch: int

    def common(self) -> dict[str, int]:
        return {"hidden_size": self.hidden, "num_hidden_layers": self.depth, "patch_size": self.patch}


def _shapes(state: State, what: str, *more: str) -> _Shapes:
    wanted = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", *more)
    if missing := [key for key in wanted if key not in state]:
        raise CheckpointMismatch(what, missing, [], [])
    patch = state["patch_embed.proj.weight"]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    return _Shapes(patch.shape[0], state["blocks.0.mlp.fc1.weight"].shape[0], depth, patch.shape[-1])


def renamed(state: State, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors under other names: patterns of parts of them, in turn, with what takes their place."""
    found = {}
    for key, tensor in state.items():
        for pattern, replacement in names.items():
            key = re.sub(pattern, replacement, key)
        found[key] = tensor
    return found


def _split(state: State) -> dict[str, Tensor]:
    """Return the tensors with queries, keys and values each on its own."""
    split: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if ".attn.qkv." in key:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            split |= {key.replace("qkv", part): third.clone() for part, third in parts}
        else:
            split[key] = tensor
    return split


def _loaded(component: Any, config: Any, state: dict[str, Tensor], what: str) -> Any:
    """Return a model of transformers with the tensors of a state dict as its files on the hub name them."""
    model, info = component.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_tensors(what, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return model.eval()


def _resampled(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings `[1, n * n, c]` on a grid of `side` x `side`."""
    own = round(positions.shape[1] ** 0.5)
    if own == side:
        return positions
    grid = rearrange(positions.float(), "1 (h w) c -> 1 c h w", h=own)
    resized = F.interpolate(grid, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return rearrange(resized, "1 c h w -> 1 (h w) c").to(positions)


def _partition(state: State, wanted: Callable[[str], bool]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    chosen = {key: tensor for key, tensor in state.items() if wanted(key)}
    return chosen, {key: tensor for key, tensor in state.items() if key not in chosen}


def _stock(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of diffusers' own class."""
    foreign = (
        "image_ref_processor_config",
        "image_ref_processor_input_keys",
        "image_prompt_settings",
        "vision_model_config",
    )
    return {key: value for key, value in config.items() if key not in foreign}
