"""Data sets with dense labels of several tasks, their joint transforms and batches."""

from __future__ import annotations

from mtpeft.data.dense.build import build_dense_dataset
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.sample import DenseDataset, Sample, TaskInfo

__all__ = ["DENSE_DATASETS", "DenseDataset", "Sample", "TaskInfo", "build_dense_dataset"]
