"""What every recipe sets up first: user code, name, seed, device, how often the state is saved."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from mtpeft.options import Count, Section, WholeNumber
from mtpeft.runs.device import AUTO, usable_device
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
        seed = top.take("seed", 0, WholeNumber)
        device = usable_device(top.take("device", AUTO), name)
        checkpoint = top.section("checkpoint")
        found = checkpoint.take("interval", interval, Count)
        checkpoint.finish()
        return cls(name, seed, device, found)

    def seed_all(self) -> None:
        """Start the random numbers of Python, numpy and torch."""
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)
