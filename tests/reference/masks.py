"""RC 11: from the target word's attention to the guidance mask."""

from __future__ import annotations

import math

import numpy as np

EPSILON = 1e-6


def resize(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sample a map `[h, w]` bilinearly where the centres of the new cells lie; beyond the outer centres it is flat."""
    rows, columns = grid.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = math.floor(v), math.floor(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
            lower = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
            out[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return out


def stretch(grid: np.ndarray) -> np.ndarray:
    return (grid - grid.min()) / (grid.max() - grid.min() + EPSILON)


def aggregate(layers: list[np.ndarray], normalization: str, height: int, width: int) -> np.ndarray:
    """Average one sample's maps over the layers, on a grid of `height` x `width`, and scale the average."""
    total = np.zeros((height, width))
    for layer in layers:
        resized = resize(layer, height, width)
        total += stretch(resized) if normalization == "min_max_per_layer" else resized
    mean = total / len(layers)
    if normalization == "none":
        return mean
    return mean / (mean.max() + EPSILON) if normalization == "max" else stretch(mean)


def top_cells(grid: np.ndarray, gamma_scope: float) -> list[tuple[int, int]]:
    """The Top-K cells, K = gamma_scope h w rounded down; of equal ones the earlier in reading order."""
    cells = [(y, x) for y in range(grid.shape[0]) for x in range(grid.shape[1])]
    cells.sort(key=lambda cell: -grid[cell])
    return cells[: int(gamma_scope * len(cells))]


def influence_scope(grid: np.ndarray, gamma_scope: float, binary: bool) -> np.ndarray:
    out = np.zeros_like(grid)
    for cell in top_cells(grid, gamma_scope):
        out[cell] = 1 if binary else grid[cell]
    return out


def influence_threshold(grid: np.ndarray, gamma_scope: float, binary: bool) -> np.ndarray:
    out = np.zeros_like(grid)
    for cell in np.ndindex(grid.shape):
        if binary:
            out[cell] = 1 if grid[cell] > 1 - gamma_scope else 0
        elif grid[cell] >= 1 - gamma_scope:
            out[cell] = grid[cell]
    return out
