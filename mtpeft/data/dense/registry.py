"""Dense data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtpeft.data.dense.sample import DenseDataset
from mtpeft.errors import ConfigError
from mtpeft.registry import Registry, check_options

DENSE_DATASETS: Registry[Callable[..., DenseDataset]] = Registry("dense data set")
SPLITS = ("train", "val")


def build_dense_dataset(name: str, split: str, **options: Any) -> DenseDataset:
    """The data set registered as `name`; `split` is "train" or "val", `options` are its own.

    Raises `UnknownNameError` for the name, `ConfigError` for a split or option it does not have, `DataError` when the
    data are missing or damaged.
    """
    from mtpeft.data.dense import builtin  # noqa: F401  registers what comes with mtpeft

    factory = DENSE_DATASETS.get(name, "key data.name")
    if split not in SPLITS:
        raise ConfigError(f"data set {name!r} has no split {split!r}; use 'train' or 'val'")
    check_options(f"data set {name!r}", factory, options, given=("split",), section="data")
    return factory(split=split, **options)
