"""From decoded frames to what a backbone takes; one draw of the augmentation serves all frames of a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtpeft.errors import ConfigError

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ClipTransform:
    """Crop, resize to `size` x `size`, augment and normalise uint8 frames (T, H, W, 3) to float32 (3, T, size, size).

    Training: a random box with `scale` (share of the area) and `ratio` (width : height) as in Szegedy et al. 2015, a
    mirror image with probability `flip` (0 where the direction is the class), and factors of brightness, contrast and
    saturation from 1 - x to 1 + x. Testing: squares of `crop_ratio` times the short side.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    crop_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(f"data.size is {self.size!r}, expected a whole number of pixels from 1")
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.augment.{name} is {getattr(self, name)}, expected 0 to 1")
        for name, limit in (("scale", 1.0), ("ratio", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= limit:
                raise ConfigError(f"data.augment.{name} is {low} to {high}, expected 0 < low <= high <= {limit}")
        if not 0 < self.crop_ratio <= 1:
            raise ConfigError(f"data.crop_ratio is {self.crop_ratio}, expected above 0 and at most 1")

    def train(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """An augmented clip: (3, T, size, size)."""
        box = random_box(frames.shape[1], frames.shape[2], self.scale, self.ratio, rng)
        clip = self._resized(frames, box)
        mirrored = rng.random() < self.flip
        factors = 1 + rng.uniform(-1, 1, 3) * (self.brightness, self.contrast, self.saturation)
        if mirrored:
            clip = clip.flip(-1)
        if (factors != 1).any():
            clip = _coloured(clip.float(), *factors.tolist())
        return self._normalised(clip)

    def test(self, frames: np.ndarray, crops: int = 1, views: int = 1) -> Tensor:
        """Of the frames of `views` clips, one after the other, `crops` each, centred or spread over the longer side:
        (views x crops, 3, T, size, size)."""
        boxes = view_boxes(frames.shape[1], frames.shape[2], crops, self.crop_ratio)
        clips = frames.reshape(views, -1, *frames.shape[1:])
        return torch.stack([self._normalised(self._resized(clip, box)) for clip in clips for box in boxes])

    def _resized(self, frames: np.ndarray, box: Box) -> Tensor:
        """uint8 (T, 3, size, size), bilinear with antialiasing."""
        top, left, height, width = box
        cut = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
        clip = torch.from_numpy(cut).permute(0, 3, 1, 2)  # strides of channels_last: torch's fast path for uint8
        if (height, width) == (self.size, self.size):
            return clip
        return F.interpolate(clip, (self.size, self.size), mode="bilinear", antialias=True)

    def _normalised(self, clip: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1, 1) for values in (self.mean, self.std))
        return (clip.permute(1, 0, 2, 3).float().contiguous() - 255 * mean).mul_(1 / (255 * std))


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A box whose area is a uniform share of the image and whose log aspect ratio is uniform; ten tries, else the largest
    centred box of a permitted ratio."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1)


def view_boxes(height: int, width: int, crops: int, crop_ratio: float = 1.0) -> Sequence[Box]:
    """1 centred square, or 3 along the longer side (its start, middle and end); the side is `crop_ratio` x the short one.

    Raises `ConfigError` for another number.
    """
    if crops not in (1, 3):
        raise ConfigError(f"data.crops is {crops}, expected 1 or 3")
    side = max(1, round(min(height, width) * crop_ratio))
    places = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
    down, right = height - side, width - side
    if height > width:
        return [(int(place * down), right // 2, side, side) for place in places]
    return [(down // 2, int(place * right), side, side) for place in places]


def _coloured(clip: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Float (T, 3, H, W) in 0 to 255; contrast is about the mean of the whole clip, so that no frame flickers."""
    clip = clip * brightness
    mean = clip.mean()
    clip = mean + (clip - mean) * contrast
    gray = (clip * torch.tensor(_LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    return (gray + (clip - gray) * saturation).clamp_(0, 255)
