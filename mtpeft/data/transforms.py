"""From an image to what a backbone expects: size, three channels, normalisation, and augmentation for training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mtpeft.data.augment import Augment, drawn_from_torch, to_picture
from mtpeft.data.reading import as_rgb
from mtpeft.errors import ConfigError
from mtpeft.options import check_options, shown


@dataclass(frozen=True)
class InputTransform:
    """The input pipeline of one backbone, in two halves: `image`, `augmented` or `resize` to uint8, then `finish` on a batch.

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

    @property
    def augments_pictures(self) -> bool:
        """Whether training changes pictures one by one, before they are batched."""
        return self.augment is not None and self.augment.of_pictures

    def augmented(self, picture: Image.Image | Tensor) -> Tensor:
        """A picture as training shows it, by torch's global generator: PIL image, or uint8 (1 or 3, H, W), to (3, H, W)."""
        assert self.augment is not None
        image = to_picture(picture) if isinstance(picture, Tensor) else as_rgb(picture, "the image")
        with drawn_from_torch():
            shown: Image.Image = self._pictures(image)
        if not self.augment.crops:
            return self.image(shown)
        return torch.from_numpy(np.asarray(shown).transpose(2, 0, 1).copy())

    def resize(self, images: Tensor) -> Tensor:
        """Small images of one size, uint8 (B, C, h, w), to uint8 (B, C, H, W): the whole image, nothing cropped."""
        if images.shape[-2:] == self.size:
            return images
        return F.interpolate(images, size=self.size, mode=self._array_mode, antialias=True)

    def finish(self, images: Tensor) -> Tensor:
        """A batch (B, 1 or 3, H, W), augmented, to float (B, 3, H, W).

        uint8 becomes (x / 255 - mean) / std; float is taken as normalised already.
        """
        if self.augment is not None:
            images = self.augment(images)
        if images.dtype == torch.uint8:
            finished = images.to(torch.float32).mul(self._scale).add_(self._shift)
        else:
            finished = images.expand(-1, 3, -1, -1)
        return finished if self.augment is None else self.augment.erase(finished)

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image to float (3, H, W)."""
        return self.finish(self.image(image)[None])[0]

    def plain(self) -> InputTransform:
        """The same without augmentation."""
        return dataclasses.replace(self, augment=None)

    def describe(self) -> dict[str, Any]:
        """All of it in plain types, for results.json."""
        described = dataclasses.asdict(self)
        if self.augment is not None:
            given = {key: value for key, value in described["augment"].items() if value != getattr(Augment, key)}
            described["augment"] = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in described.items()}

    def text(self, whole: bool = False) -> str:
        """What becomes of an image, in words; `whole` for small images in an array, which are resized whole."""
        height, width = self.size
        to, by = f"{height} x {width}", self.interpolation
        if self.augment is not None and self.augment.scale is not None:
            low, high = (100 * part for part in self.augment.scale)
            ratios = " to ".join(f"{ratio:.3g}" for ratio in self.augment.ratio)
            steps = [
                f"a random crop of {low:g} to {high:g} % of the area, {ratios} as wide as high, resized to {to} ({by})"
            ]
        elif self.augment is not None and self.augment.random_crop is not None:
            side = int(min(self.size) / self.augment.random_crop)
            steps = [f"shorter side resized to {side} ({by})", f"a random crop of {to}"]
        elif whole:
            steps = [f"resized whole to {to} ({self._array_mode})"]
        elif self.crop_mode == "squash" and self.crop_pct == 1:
            steps = [f"resized to {to} ({by})"]
        else:
            side = math.floor(min(self.size) / self.crop_pct)
            steps = [f"{'both sides' if self.crop_mode == 'squash' else 'shorter side'} resized to {side} ({by})"]
            steps.append(f"{'' if self.crop_mode == 'squash' else self.crop_mode + ' '}crop of {to}")
        words = [] if self.augment is None else self.augment.text()
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return "; ".join([*steps, *words, f"minus mean {mean}, over std {std}"])

    @property
    def _array_mode(self) -> str:
        return "bilinear" if self.interpolation == "bilinear" else "bicubic"

    @cached_property
    def _pictures(self) -> Any:
        assert self.augment is not None
        return self.augment.pictures(self.size, self.mean, self.interpolation)

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

    `augment` (keys of `Augment`) acts only when `train` is true. Raises `ConfigError` for a data
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
