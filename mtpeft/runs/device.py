"""The device a recipe asks for."""

from __future__ import annotations

from typing import Any

import torch

from mtpeft.errors import ConfigError


def usable_device(name: Any, recipe: str) -> torch.device:
    """The device of the recipe's key `device`; `ConfigError` where there is no such thing, or this machine has none."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"recipe {recipe}: device is {name!r}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"recipe {recipe}: device is {name!r}, but torch sees no GPU here; use device=cpu")
    return device
