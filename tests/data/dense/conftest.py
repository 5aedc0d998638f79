"""Small data sets that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtpeft.data.dense import DenseDataset, build_dense_dataset

TINY = {"train_size": 12, "val_size": 10, "size": 32, "seed": 1}


@pytest.fixture(scope="session")
def scenes_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def scenes(scenes_cache: Path) -> DenseDataset:
    return build_dense_dataset("scenes", "train", cache=str(scenes_cache), **TINY)


@pytest.fixture(scope="session")
def scenes_val(scenes_cache: Path) -> DenseDataset:
    return build_dense_dataset("scenes", "val", cache=str(scenes_cache), **TINY)
