"""Dense data sets by name, those that come with mtpeft among them."""

from __future__ import annotations

from typing import Any

import mtpeft.data.dense.nyud
import mtpeft.data.dense.pascal
import mtpeft.data.dense.scenes.dataset
import mtpeft.data.dense.segmentation  # noqa: F401  all four register data sets
from mtpeft.data.dense.registry import DENSE_DATASETS, SPLITS
from mtpeft.data.dense.sample import DenseDataset
from mtpeft.errors import ConfigError
from mtpeft.options import check_options


def build_dense_dataset(name: str, split: str, **options: Any) -> DenseDataset:
    """The data set registered as `name`; `split` is "train" or "val", `options` are its own.

    Raises `UnknownNameError` for the name, `ConfigError` for a split or option it does not have, `DataError` when the
    data are missing or damaged.
    """
    factory = DENSE_DATASETS.get(name, "key data.name")
    if split not in SPLITS:
        raise ConfigError(f"data set {name!r} has no split {split!r}; use 'train' or 'val'")
    check_options(f"data set {name!r}", factory, options, given=("split",), section="data")
    return factory(split=split, **options)
