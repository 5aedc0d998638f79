"""What every test shares: one thread per worker (two workers, two cores), and the same random numbers in any order."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import random

import numpy
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seed every generator, so that a test does not depend on those that ran before it in the same worker."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
