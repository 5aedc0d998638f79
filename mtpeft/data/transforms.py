"""From an image to what a backbone expects: size, three channels, normalisation, and augmentation for training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mtpeft.data.reading import as_rgb
from mtpeft.errors import ConfigError
from mtpeft.options import WholeNumber, check_fields, check_options, shown


@dataclass(frozen=True)
class Augment:
    """Random augmentation of a training batch (He et al. 2016, sec. 4.2), drawn from torch's global generator.

    `crop_padding` pads each side with that many black pixels and crops the old size at a random place; `flip` mirrors
    left to right with probability one half.
    """

    crop_padding: WholeNumber = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "augment")

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of any dtype to the same shape."""
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


@dataclass(frozen=True)
class InputTransform:
    """The input pipeline of one backbone, in two halves: `image` or `resize` to uint8, then `finish` on a batch.

    Called with a PIL image it does both and returns float (3, H, W), as a transform of a torchvision data set should.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    augment: Augment | None = None

    def image(self, image: Image.Image) -> Tensor:
        """timm's evaluation transform without the normalisation: PIL image of any mode (`as_rgb`) to uint8 (3, H, W)."""
        pixels: Tensor = self._timm(as_rgb(image, "the image"))
        return pixels

    def resize(self, images: Tensor) -> Tensor:
        """Small images of one size, uint8 (B, C, h, w), to uint8 (B, C, H, W): the whole image, nothing cropped."""
        if images.shape[-2:] == self.size:
            return images
        mode = "bilinear" if self.interpolation == "bilinear" else "bicubic"
        return F.interpolate(images, size=self.size, mode=mode, antialias=True)

    def finish(self, images: Tensor) -> Tensor:
        """A batch (B, 1 or 3, H, W), augmented, to float (B, 3, H, W).

        uint8 becomes (x / 255 - mean) / std; float is taken as normalised already.
        """
        if self.augment is not None:
            images = self.augment(images)
        if images.dtype == torch.uint8:
            return images.to(torch.float32).mul(self._scale).add_(self._shift)
        return images.expand(-1, 3, -1, -1)

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image to float (3, H, W)."""
        return self.finish(self.image(image)[None])[0]

    def plain(self) -> InputTransform:
        """The same without augmentation."""
        return dataclasses.replace(self, augment=None)

    def describe(self) -> dict[str, Any]:
        """All of it in plain types, for results.json."""
        described = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in described.items()}

    @cached_property
    def _scale(self) -> Tensor:  # (3, 1, 1)
        return (1 / (255 * torch.tensor(self.std)))[:, None, None]

    @cached_property
    def _shift(self) -> Tensor:  # (3, 1, 1)
        return (-torch.tensor(self.mean) / torch.tensor(self.std))[:, None, None]

    @cached_property
    def _timm(self) -> Any:
        from timm.data import create_transform

        return create_transform(
            self.size,
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            normalize=False,
        )


def build_augment(config: Mapping[str, Any] | Augment | None) -> Augment | None:
    """An `Augment` from its keys; None, or no key at all, is no augmentation."""
    if config is None or isinstance(config, Augment):
        return config
    if not isinstance(config, Mapping):
        raise ConfigError(f"augment is {shown(config)}, expected a mapping such as dict(flip=True)")
    return Augment(**check_options("augment", Augment, config)) if config else None


def build_transform(
    data_config: Mapping[str, Any], train: bool = False, augment: Mapping[str, Any] | Augment | None = None
) -> InputTransform:
    """The pipeline for a backbone whose `data_config` is what `timm.data.resolve_model_data_config(model)` returns.

    `augment` (keys `crop_padding`, `flip`) acts only when `train` is true. Raises `ConfigError` for a data
    configuration without size, mean or std, or for a backbone that does not take three channels.
    """
    missing = [key for key in ("input_size", "mean", "std") if key not in data_config]
    if missing:
        raise ConfigError(
            f"the backbone's data configuration lacks {', '.join(missing)}; timm's resolve_model_data_config makes it"
        )
    channels, height, width = data_config["input_size"]
    if channels != 3:
        raise ConfigError(f"the backbone takes {channels} channels, expected 3")
    chosen = build_augment(augment)
    return InputTransform(
        size=(int(height), int(width)),
        mean=tuple(float(value) for value in data_config["mean"]),
        std=tuple(float(value) for value in data_config["std"]),
        interpolation=data_config.get("interpolation", "bicubic"),
        crop_pct=float(data_config.get("crop_pct") or 1.0),
        crop_mode=data_config.get("crop_mode") or "center",
        augment=chosen if train else None,
    )
