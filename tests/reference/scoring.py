"""RC 5-10: the adaptive scoring module, for one sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Net = Callable[[np.ndarray], float]
"""A score-net: one concatenated row in, one number out."""


def softmax(values: list[float]) -> list[float]:
    peak = max(values)
    powers = [np.exp(value - peak) for value in values]
    return [power / sum(powers) for power in powers]


def pool(rows: list[np.ndarray], w: np.ndarray) -> np.ndarray:
    """RC 5-7: the softmax of `rows w` weights the rows; without any row the context is zero."""
    if not rows:
        return np.zeros_like(w)
    context = np.zeros_like(w)
    for share, row in zip(softmax([float(row @ w) for row in rows]), rows, strict=True):
        context = context + share * row
    return context


def two_layers(first: np.ndarray, bias: np.ndarray, second: np.ndarray, last_bias: float) -> Net:
    """A two-layer net with SiLU between."""

    def net(row: np.ndarray) -> float:
        hidden = first @ row + bias
        return float(second @ (hidden / (1 + np.exp(-hidden))) + last_bias)

    return net


def scores(
    text: list[np.ndarray], cells: list[np.ndarray], image: list[np.ndarray], a_t: float,
    *, w_at: np.ndarray, w_av: np.ndarray, text_net: Net, visual_net: Net,
) -> list[float]:  # fmt: skip
    """RC 5-8: S of every image token."""
    c_text, c_vis = pool(text, w_at), pool(cells, w_av)
    fused = []
    for token in image:
        s_text = text_net(np.concatenate([token, c_text]))
        s_vis = visual_net(np.concatenate([token, c_vis]))
        fused.append((1 - a_t) * s_text + a_t * s_vis)
    return softmax(fused)


def select(image: list[np.ndarray], s: list[float], gamma_num: float) -> list[np.ndarray]:
    """RC 9, 10: `f = f_ci (1 + S)`, of which the Top-K tokens are kept, in their order."""
    count = max(1, int(gamma_num * len(image)))
    kept = sorted(sorted(range(len(image)), key=lambda i: -s[i])[:count])
    return [image[i] * (1 + s[i]) for i in kept]
