"""What every recipe sets up first: user code, name, seed, device, how often the state is saved."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mtpeft.errors import ConfigError
from mtpeft.options import Section
from mtpeft.runs.device import usable_device
from mtpeft.runs.user_code import import_user_code


@dataclass(frozen=True)
class Setup:
    """`interval`: steps between two states on disk."""

    name: str
    seed: int
    device: torch.device
    interval: int

    @classmethod
    def read(cls, top: Section, interval: int) -> Setup:
        """The recipe's keys `imports` (they are imported), `name`, `seed`, `device` and `checkpoint`."""
        import_user_code(top.take("imports", []))
        name = str(top.take("name"))
        seed = whole(top.take("seed", 0), "seed", name, 0)
        device = usable_device(top.take("device", "cpu"), name)
        checkpoint = top.section("checkpoint")
        found = whole(checkpoint.take("interval", interval), "checkpoint.interval", name, 1)
        checkpoint.finish()
        return cls(name, seed, device, found)

    def seed_all(self) -> None:
        """Start the random numbers of Python, numpy and torch."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)


def whole(value: Any, key: str, recipe: str, least: int) -> int:
    """`value` of a recipe's key; `ConfigError` unless it is a whole number of `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"recipe {recipe}: {key} is {value!r}, expected a whole number, {least} or more")
    return value
