"""Dense data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from mtpeft.data.dense.sample import DenseDataset
from mtpeft.registry import Registry

DENSE_DATASETS: Registry[Callable[..., DenseDataset]] = Registry("dense data set")
SPLITS = ("train", "val")
