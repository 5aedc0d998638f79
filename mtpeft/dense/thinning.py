"""From soft, thick edge maps to lines one pixel wide, in numpy."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def suppress(edges: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """(H, W) edge strength with zero wherever it is not the maximum across its edge (Canny 1986).

    Across is the first axis of the structure tensor: squared gradients of the strength, smoothed by Gaussians of `sigma`
    pixels before and after. The values one pixel away on both sides are interpolated bilinearly. Ties are kept, so
    plateaus stay thick.
    """

    def smooth(values: np.ndarray, order: tuple[int, int] = (0, 0)) -> np.ndarray:
        return ndimage.gaussian_filter(values, sigma, order=order, mode="nearest")

    dy, dx = smooth(edges, (1, 0)), smooth(edges, (0, 1))
    angle = 0.5 * np.arctan2(2 * smooth(dx * dy), smooth(dx * dx) - smooth(dy * dy))
    rows, columns = np.indices(edges.shape)
    step_y, step_x = np.sin(angle), np.cos(angle)
    highest = np.ones(edges.shape, dtype=bool)
    for side in (1, -1):
        at = [rows + side * step_y, columns + side * step_x]
        beside = ndimage.map_coordinates(edges, at, order=1, mode="constant", cval=0.0)
        highest &= edges >= beside - 1e-7
    return np.where(highest, edges, 0.0)


def thin(masks: np.ndarray) -> np.ndarray:
    """(..., H, W) bool reduced to lines one pixel wide, whose connections stay (Guo and Hall 1989)."""
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(1, 1), (1, 1)]).astype(np.uint8)
    flat = padded.reshape(-1)  # a view
    around = [dy * padded.shape[-1] + dx for dy, dx in _AROUND]
    pixels = np.flatnonzero(flat)
    before = -1
    while len(pixels) != before:
        before = len(pixels)
        for table in _TABLES:
            code = np.zeros(len(pixels), dtype=np.uint8)
            for bit, offset in enumerate(around):
                code |= flat[pixels + offset] << bit
            gone = table[code]
            flat[pixels[gone]] = 0
            pixels = pixels[~gone]
    return padded[..., 1:-1, 1:-1].astype(bool)


#: the paper's P2 to P9: north, then clockwise
_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """For either half of an iteration: whether a pixel with these neighbours goes (their algorithm A1)."""
    p2, p3, p4, p5, p6, p7, p8, p9 = ((np.arange(256) >> bit) & 1 == 1 for bit in range(8))
    pairs = ((p2, p3 | p4), (p4, p5 | p6), (p6, p7 | p8), (p8, p9 | p2))
    components = sum((~side & after).astype(int) for side, after in pairs)
    ones = sum(pair.astype(int) for pair in (p9 | p2, p3 | p4, p5 | p6, p7 | p8))
    others = sum(pair.astype(int) for pair in (p2 | p3, p4 | p5, p6 | p7, p8 | p9))
    number = np.minimum(ones, others)
    removable = (components == 1) & (number >= 2) & (number <= 3)
    return removable & ~((p6 | p7 | ~p9) & p8), removable & ~((p2 | p3 | ~p5) & p4)


_TABLES = _tables()
