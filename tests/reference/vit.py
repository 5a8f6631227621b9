"""A vision transformer's blocks from a state dict under timm's names, slowly and in NumPy."""

from __future__ import annotations

import math

import numpy as np
import torch

Weights = dict[str, np.ndarray]


def norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return (x - x.mean(axis=-1, keepdims=True)) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x: np.ndarray, weights: Weights, name: str, heads: int) -> np.ndarray:
    query, key, value = np.split(linear(x, weights, f"{name}.qkv"), 3, axis=-1)
    width, out = query.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = query[:, part] @ key[:, part].T / math.sqrt(width)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        out.append(shares / shares.sum(axis=-1, keepdims=True) @ value[:, part])
    return linear(np.concatenate(out, axis=-1), weights, f"{name}.proj")


def patches(picture: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the embedded patches `[n, c]` of a picture `[3, h, w]`, in reading order; what does not fill a patch is left."""
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    side = kernel.shape[-1]
    rows, columns = picture.shape[1] // side, picture.shape[2] // side
    return np.stack(
        [
            np.einsum("oihw,ihw->o", kernel, picture[:, y * side : (y + 1) * side, x * side : (x + 1) * side]) + bias
            for y in range(rows)
            for x in range(columns)
        ]
    )


def layers(picture: np.ndarray, weights: Weights, heads: int) -> list[np.ndarray]:
    """Return the raw outputs of all blocks for one picture: of the patches only."""
    x = patches(picture, weights) + weights["pos_embed"][0]
    beside = 0
    if "cls_token" in weights:  # class and register tokens, which have no position, come first
        first = [weights["cls_token"][0], weights["reg_token"][0]]
        beside = sum(len(one) for one in first)
        x = np.concatenate([*first, x])
    outputs = []
    while f"blocks.{len(outputs)}.norm1.weight" in weights:
        name = f"blocks.{len(outputs)}"
        scales = [weights.get(f"{name}.ls{number}.gamma", np.ones(1)) for number in (1, 2)]
        x = x + scales[0] * attention(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn", heads)
        hidden = gelu(linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
        x = x + scales[1] * linear(hidden, weights, f"{name}.mlp.fc2")
        outputs.append(x[beside:])
    return outputs


def timm_state(
    *, hidden: int, depth: int, patch: int, grid: int, dino: bool, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Return the state dict of a vision transformer as timm names its tensors, with random numbers."""
    shapes = {"patch_embed.proj.weight": (hidden, 3, patch, patch), "patch_embed.proj.bias": (hidden,)}
    shapes |= {"pos_embed": (1, grid * grid, hidden), "norm.weight": (hidden,), "norm.bias": (hidden,)}
    for block in range(depth):
        name = f"blocks.{block}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}.{norm}.weight": (hidden,), f"{name}.{norm}.bias": (hidden,)}
        for layer, (out, into) in {
            "attn.qkv": (3 * hidden, hidden), "attn.proj": (hidden, hidden), "mlp.fc1": (2 * hidden, hidden),
            "mlp.fc2": (hidden, 2 * hidden),
        }.items():  # fmt: skip
            shapes |= {f"{name}.{layer}.weight": (out, into), f"{name}.{layer}.bias": (out,)}
        if dino:
            shapes |= {f"{name}.ls1.gamma": (hidden,), f"{name}.ls2.gamma": (hidden,)}
    if dino:
        shapes |= {"cls_token": (1, 1, hidden), "reg_token": (1, 4, hidden)}
    generator = torch.Generator().manual_seed(0)
    return {f"{prefix}{key}": 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
