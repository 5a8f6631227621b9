"""RC 4 and 12: textual cross-attention plus masked visual cross-attention, for one sample."""

from __future__ import annotations

import numpy as np


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """`softmax(Q K^T / sqrt d) V`, each head on its own channels."""
    width = query.shape[1] // heads
    out = np.zeros_like(query)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for cell in range(len(query)):
            weights = softmax(key[:, own] @ query[cell, own] / np.sqrt(width))
            out[cell, own] = weights @ value[:, own]
    return out


def layer(
    hidden: np.ndarray, text: np.ndarray, image: np.ndarray, mask: np.ndarray, heads: int,
    *, w_q: np.ndarray, w_k: np.ndarray, w_v: np.ndarray, w_ki: np.ndarray, w_vi: np.ndarray,
    w_out: np.ndarray, b_out: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """One layer; `mask` has one number a cell, and both attentions share query and output projection."""
    query = hidden @ w_q.T
    textual = attention(query, text @ w_k.T, text @ w_v.T, heads)
    visual = attention(query, image @ w_ki.T, image @ w_vi.T, heads)
    return (textual + mask[:, None] * visual) @ w_out.T + b_out
