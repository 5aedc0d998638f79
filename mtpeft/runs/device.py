"""The device a recipe asks for."""

from __future__ import annotations

import os
from typing import Any

import torch

from mtpeft.errors import ConfigError

AUTO = "auto"


def usable_device(name: Any, recipe: str) -> torch.device:
    """The device of the recipe's key `device`; `ConfigError` where there is no such thing, or this machine has none.

    "auto" is the first GPU that torch sees (CUDA's, then Apple's), else the CPU. Processes that torchrun started take a GPU
    each where none is named.
    """
    try:
        device = torch.device(best() if name == AUTO else name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"recipe {recipe}: device is {name!r}: {str(error).splitlines()[0]}") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise ConfigError(f"recipe {recipe}: device is {name!r}, but torch sees no GPU here; use device=cpu")
    if device.type == "cuda":
        device = _own_gpu(device, recipe)
        torch.cuda.set_device(device)
    return device


def best() -> str:
    """The kind of device that "auto" takes here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _own_gpu(device: torch.device, recipe: str) -> torch.device:
    """The GPU of this process, by the recipe's number or else its own; `ConfigError` where there are not so many."""
    index, count = device.index, torch.cuda.device_count()
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        wanted = f"device is {str(device)!r}" if device.index is not None else f"a process wants GPU {index}"
        raise ConfigError(f"recipe {recipe}: {wanted}, but torch sees {count} here")
    return torch.device("cuda", index)
