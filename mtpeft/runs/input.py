"""The section `input` of a recipe: what images are turned into for the backbone, where it is not what timm says of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import timm
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.options import Positive, Range, Section

Triple = tuple[float, float, float]
#: what acts on images of class labels alone; dense labels must follow, and have transforms of their own
OF_CLASSES = ("crop_pct", "crop_mode", "interpolation")


def read_input(section: Section, dense: bool = False) -> dict[str, Any]:
    """The keys, in the names of timm's data configuration.

    `mean` and `std` normalise pixels of 0 to 1. `interpolation`, `crop_pct` and `crop_mode` resize test images: the shorter
    side so that the backbone's size is `crop_pct` of it, then a crop of the "center"; or "squash", both sides, or "border",
    nothing is lost. With `crop_pct` or `crop_mode` given they act on small images in arrays too, which are resized whole
    otherwise. Raises `ConfigError`; also for other keys than `mean` and `std` where the stream is `dense`.
    """
    found = {
        "mean": section.take("mean", None, Triple),
        "std": section.take("std", None, tuple[Positive, Positive, Positive]),
        "interpolation": section.take("interpolation", None, Literal["bilinear", "bicubic"]),
        "crop_pct": section.take("crop_pct", None, Annotated[float, Range(above=0, at_most=1)]),
        "crop_mode": section.take("crop_mode", None, Literal["center", "squash", "border"]),
    }
    section.finish()
    given = {key: value for key, value in found.items() if value is not None}
    for key in OF_CLASSES if dense else ():
        if key in given:
            raise ConfigError(
                f"recipe {section.recipe}: input.{key} changes images alone, which dense labels must follow: use transforms"
            )
    return {**given, "crop_arrays": True} if "crop_pct" in given or "crop_mode" in given else given


def data_config(model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """timm's data configuration of a backbone, changed by what a recipe gives."""
    return {**timm.data.resolve_model_data_config(model), **given}
