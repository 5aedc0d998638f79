"""A folder of photographs, made up: noisy pictures of two colours, of several sizes and formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"moss": (60, 140, 50), "rust": (180, 80, 30)}


def photos(root: Path, train: int = 6, test: int = 3) -> Path:
    """root/train and root/test, a folder per class in each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name, colour in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                size = (int(rng.integers(36, 60)), int(rng.integers(36, 60)), 3)
                pixels = np.clip(rng.normal(colour, 50, size), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.{('png', 'jpg')[number % 2]}")
    return root
