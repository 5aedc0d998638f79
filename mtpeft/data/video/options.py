"""Types of the options of video data sets: a recipe may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtpeft.errors import ConfigError, nearest

WHOLE = ("frames", "stride", "size", "views", "crops", "seed", "cache_bytes", "generated")
NUMBERS = ("crop_ratio", "limit", "max_bad_share")
TRIPLES = ("mean", "std")
AUGMENT = {"scale": 2, "ratio": 2, "flip": 1, "brightness": 1, "contrast": 1, "saturation": 1}
"""Options of the augmentation, and how many numbers each is."""


def check_types(options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for the first option of `build_video_dataset` that is of another type than it must be."""
    for key in WHOLE:
        if not isinstance(options[key], int) or isinstance(options[key], bool):
            raise ConfigError(f"data.{key} is {options[key]!r}, expected a whole number")
    for key in NUMBERS:
        if not _numbers(options[key], 1) and not (key == "limit" and options[key] is None):
            raise ConfigError(f"data.{key} is {options[key]!r}, expected a number")
    for key in TRIPLES:
        if not _numbers(options[key], 3):
            raise ConfigError(f"data.{key} is {options[key]!r}, expected three numbers")


def augmentation(augment: Any) -> dict[str, Any]:
    """The recipe's key `data.augment`, checked."""
    if not isinstance(augment, Mapping):
        raise ConfigError(f"data.augment is {augment!r}, expected a mapping such as dict(scale=[0.5, 1.0])")
    for key, value in augment.items():
        if key not in AUGMENT:
            raise ConfigError(f"data.augment takes no option {key!r}.{nearest(key, AUGMENT)}")
        if not _numbers(value, AUGMENT[key]):
            raise ConfigError(
                f"data.augment.{key} is {value!r}, expected {('a number', 'two numbers')[AUGMENT[key] - 1]}"
            )
    return {key: tuple(value) if AUGMENT[key] == 2 else value for key, value in augment.items()}


def _numbers(value: Any, count: int) -> bool:
    values = [value] if count == 1 else value
    plain = isinstance(values, (list, tuple)) and len(values) == count
    return plain and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
