"""Random augmentation of training images: of each picture, of a batch of them, and of images and labels together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mtpeft.errors import ConfigError
from mtpeft.options import NotNegative, Positive, Range, Rate, WholeNumber, check_fields

Part = Annotated[float, Range(above=0, at_most=1)]
Chance = Annotated[float, Range(at_least=0, at_most=1)]
#: how often cutmix takes the place of mixup where both are on, as in timm
SWITCH = 0.5


@dataclass(frozen=True)
class Augment:
    """The recipe's key `augment`; names are timm's where it has them. All is drawn from torch's global generator.

    Of each picture, before it has the backbone's size: `scale` crops a part of so much of its area, in a `ratio` of width
    to height, and resizes that (random resized crop); or `random_crop` resizes the shorter side so that the backbone's size
    is this part of it, and crops at a random place (0.875: 224 of 256 pixels). `color_jitter` changes brightness, contrast
    and saturation by up to this part; `auto_augment` is timm's text ("rand-m9-mstd0.5-inc1" for RandAugment).

    Of a batch: `crop_padding` pads each side with that many black pixels and crops the old size at a random place (He et
    al. 2016, sec. 4.2); `flip` mirrors left to right with probability one half; `re_prob` is the probability that a
    rectangle of an image becomes noise (random erasing, timm's mode "pixel").

    Of images and labels, for one task of classes: `mixup` and `cutmix` are the alphas of their Beta distributions, one of
    them drawn for a batch where both are on; `smoothing` of the labels.
    """

    crop_padding: WholeNumber = 0
    flip: bool = False
    scale: tuple[Part, Part] | None = None
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    random_crop: Part | None = None
    color_jitter: NotNegative = 0.0
    auto_augment: str | None = None
    re_prob: Chance = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    smoothing: Rate = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "augment")
        if self.scale is not None and self.random_crop is not None:
            raise ConfigError("augment: scale and random_crop are two ways to crop; leave one of them out")
        for key, pair in (("scale", self.scale), ("ratio", self.ratio)):
            if pair is not None and pair[0] > pair[1]:
                raise ConfigError(f"augment: {key} is {pair}, expected the lower limit first")
        if self.ratio != Augment.ratio and self.scale is None:
            raise ConfigError("augment: ratio is that of the crop of scale; give scale, or leave ratio out")
        if self.auto_augment is not None:
            _policy(self.auto_augment, (224, 224), (0.5, 0.5, 0.5), "bicubic")

    @property
    def of_pictures(self) -> bool:
        """Whether pictures are changed one by one, at their own size."""
        return bool(self.scale or self.random_crop or self.color_jitter or self.auto_augment)

    @property
    def mixes(self) -> bool:
        """Whether labels become distributions over the classes."""
        return bool(self.mixup or self.cutmix or self.smoothing)

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of any dtype to the same shape: cropped and flipped."""
        batch, _, height, width = images.shape
        if self.crop_padding:
            pad = self.crop_padding
            padded = F.pad(images, (pad, pad, pad, pad))
            offsets = torch.randint(0, 2 * pad + 1, (batch, 2)).tolist()
            images = torch.stack(
                [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
            )
        if self.flip:
            mirrored = (torch.rand(batch) < 0.5).nonzero()[:, 0]
            images = images.index_copy(0, mirrored, images[mirrored].flip(-1))
        return images

    def pictures(self, size: tuple[int, int], mean: tuple[float, ...], interpolation: str) -> Any:
        """A function from a PIL image of mode RGB to one of `size`, without the resizing where nothing crops."""
        from timm.data.transforms import str_to_interp_mode
        from torchvision import transforms as tv

        mode, steps = str_to_interp_mode(interpolation), []
        if self.scale is not None:
            steps.append(tv.RandomResizedCrop(size, self.scale, self.ratio, mode))
        if self.random_crop is not None:
            shorter = [int(side / self.random_crop) for side in size]
            steps += [tv.Resize(min(shorter), mode), tv.RandomCrop(size, pad_if_needed=True)]
        if self.auto_augment is not None:
            steps.append(_policy(self.auto_augment, size, mean, interpolation))
        if self.color_jitter:
            steps.append(tv.ColorJitter(*[self.color_jitter] * 3))
        return tv.Compose(steps)

    @property
    def crops(self) -> bool:
        """Whether `pictures` gives images of the backbone's size."""
        return self.scale is not None or self.random_crop is not None

    def erase(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W): a rectangle of some is noise."""
        if not self.re_prob:
            return images
        from timm.data.random_erasing import RandomErasing

        with drawn_from_torch():
            erased: Tensor = RandomErasing(self.re_prob, mode="pixel", device="cpu")(images.contiguous())
        return erased

    def mix(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) to mixed images and distributions over the classes (B, classes).

        Each image is mixed with its mirror in the batch, the first with the last, by one share for all.
        """
        alpha = self.mixup
        cut = self.cutmix > 0 and (not self.mixup or torch.rand(()).item() < SWITCH)
        if cut:
            alpha = self.cutmix
        share = torch.distributions.Beta(alpha, alpha).sample().item() if alpha else 1.0
        if cut:
            height, width = images.shape[-2:]
            high, wide = (int(side * (1 - share) ** 0.5) for side in (height, width))
            y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
            top, bottom = max(y - high // 2, 0), min(y + high // 2, height)
            left, right = max(x - wide // 2, 0), min(x + wide // 2, width)
            images = images.clone()
            images[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (height * width)
        elif alpha:
            images = images * share + images.flip(0) * (1 - share)
        sure = F.one_hot(labels, classes).float() * (1 - self.smoothing) + self.smoothing / classes
        return images, sure * share + sure.flip(0) * (1 - share)

    def text(self) -> list[str]:
        """What it does to pictures after they are cropped, in words."""
        words = [
            (self.auto_augment, f"{self.auto_augment} (timm)"),
            (self.color_jitter, f"colours changed by up to {self.color_jitter:g}"),
            (self.crop_padding, f"cropped from {self.crop_padding} pixels of padding"),
            (self.flip, "flipped with probability 0.5"),
            (self.re_prob, f"a rectangle erased with probability {self.re_prob:g}"),
            (self.mixup, f"mixup {self.mixup:g}"),
            (self.cutmix, f"cutmix {self.cutmix:g}"),
            (self.smoothing, f"labels smoothed by {self.smoothing:g}"),
        ]
        return [text for used, text in words if used]


@contextmanager
def drawn_from_torch() -> Iterator[None]:
    """Random numbers of Python and numpy follow torch's global generator inside, and are as they were afterwards."""
    seed = int(torch.randint(2**31, ()))
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _policy(text: str, size: tuple[int, int], mean: tuple[float, ...], interpolation: str) -> Any:
    """timm's transform of that text. Raises `ConfigError` where timm knows none."""
    from timm.data import auto_augment
    from timm.data.transforms import str_to_pil_interp

    grey = tuple(min(255, round(255 * value)) for value in mean)
    hints = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": grey,
        "interpolation": str_to_pil_interp(interpolation),
    }
    make = (
        auto_augment.rand_augment_transform
        if text.startswith("rand")
        else auto_augment.augment_and_mix_transform
        if text.startswith("augmix")
        else auto_augment.auto_augment_transform
    )
    try:
        return make(text, hints)
    except (AssertionError, KeyError, ValueError, IndexError, NotImplementedError) as error:
        raise ConfigError(
            f"augment: auto_augment is {text!r}, expected a text of timm's, as 'rand-m9-mstd0.5-inc1' or 'original'"
        ) from error


def to_picture(pixels: Tensor) -> Image.Image:
    """A uint8 tensor (1 or 3, H, W) as a PIL image of mode RGB."""
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
