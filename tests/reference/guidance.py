"""RC 13: classifier-free guidance with two conditions."""

from __future__ import annotations

import numpy as np


def guided(unconditional: np.ndarray, t2i: np.ndarray, ti2i: np.ndarray, w_t: float, w_i: float) -> np.ndarray:
    out = np.zeros_like(unconditional)
    for cell in np.ndindex(out.shape):
        towards_text = w_t * (t2i[cell] - unconditional[cell])
        towards_subject = w_i * (ti2i[cell] - t2i[cell])
        out[cell] = unconditional[cell] + towards_text + towards_subject
    return out
