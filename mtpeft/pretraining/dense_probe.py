"""How good are frozen maps? Linear regression from each grid cell's features to the labels of rendered scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4
"""Pixels along the side of a grid cell, which is what a label is averaged over."""
RIDGE = 1e-3
"""Penalty of the regression per cell, for standardised features."""
LEVELS = tuple(np.linspace(0.05, 0.95, 37))
"""Thresholds of the foreground; the one with the best overlap on the cells for fitting is used."""
MEASURES = {"depth": "RMSE, m", "normals": "mean angle, degrees", "saliency": "IoU of the foreground"}


@dataclass(frozen=True)
class DenseData:
    """Images uint8 (N, S, S, 3), cell labels float32 {task: (N * cells, channels)} with NaN where there is none.

    The first `fitted` images are for fitting, the others show other objects.
    """

    images: np.ndarray
    labels: dict[str, np.ndarray]
    fitted: int


def scenes(fitted: int, tested: int, size: int, cache: str) -> DenseData:
    """The first scenes of both splits of the data set "scenes"; the objects of the second are not in the first."""
    from mtpeft.data.dense import build_dense_dataset

    samples = []
    for split, count in (("train", fitted), ("val", tested)):
        dataset = build_dense_dataset("scenes", split, size=size, cache=cache, **{f"{split}_size": count})
        samples += [dataset[i] for i in range(count)]
    labels = {task: _cells(task, np.stack([sample.labels[task] for sample in samples])) for task in MEASURES}
    return DenseData(np.stack([sample.image for sample in samples]), labels, fitted)


@torch.no_grad()
def map_features(model: nn.Module, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """All maps that `model` (timm) gives of uint8 images (N, S, S, 3), on the cells' grid: (N * cells, channels)."""
    training = model.training
    model.eval()
    rows = []
    for part in _pixels(images).split(batch_size):
        maps = model.forward_intermediates((part - 0.5) / 0.5, intermediates_only=True)  # type: ignore[operator]
        side = images.shape[1] // CELL
        enlarged = [F.interpolate(m, (side, side), mode="bilinear", align_corners=False) for m in maps]
        rows.append(_rows(torch.cat(enlarged, dim=1)))
    model.train(training)
    return np.concatenate(rows)


def patches(images: np.ndarray) -> np.ndarray:
    """The values of each cell's own pixels (N * cells, 3 * 16): what the features are compared with."""
    return _rows(F.pixel_unshuffle(_pixels(images), CELL))


def measure(features: np.ndarray, data: DenseData) -> dict[str, float]:
    """Fit one ridge regression per task on the first cells, measure it (`MEASURES`) on the others."""
    split = len(features) // len(data.images) * data.fitted
    features = (features - features[:split].mean(axis=0)) / (features[:split].std(axis=0) + 1e-6)
    features = np.concatenate([features, np.ones((len(features), 1), features.dtype)], axis=1)
    results = {}
    for task, labels in data.labels.items():
        valid = np.isfinite(labels).all(axis=1)
        fit, test = valid[:split].nonzero()[0], split + valid[split:].nonzero()[0]
        inputs, target = features[fit].astype(np.float64), labels[fit].astype(np.float64)
        penalty = RIDGE * len(fit) * np.eye(features.shape[1])
        penalty[-1, -1] = 0  # the constant is free
        weights = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ target)
        predicted = features[test] @ weights
        if task == "saliency":
            level = max(LEVELS, key=lambda level: _overlap(inputs @ weights > level, target > 0.5))
            results[task] = _overlap(predicted > level, labels[test] > 0.5)
        else:
            results[task] = _error(task, predicted, labels[test])
    return results


def _overlap(found: np.ndarray, there: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & there).sum() / max((found | there).sum(), 1))


def _error(task: str, predicted: np.ndarray, truth: np.ndarray) -> float:
    if task == "depth":
        return float(np.sqrt(np.mean((predicted - truth) ** 2)))
    lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(truth, axis=1)
    cosine = (predicted * truth).sum(axis=1) / np.maximum(lengths, 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def _cells(task: str, labels: np.ndarray) -> np.ndarray:
    """(N, S, S) or (N, S, S, K) labels to means over the cells; NaN where one of a cell's pixels has no valid label."""
    values = labels.astype(np.float32).reshape(*labels.shape[:3], -1)
    valid = {"depth": values[..., 0] > 0, "normals": np.abs(values).sum(axis=-1) > 0, "saliency": values[..., 0] != 255}
    values[~valid[task]] = np.nan
    return _rows(F.avg_pool2d(torch.from_numpy(values).permute(0, 3, 1, 2), CELL))


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _rows(maps: Tensor) -> np.ndarray:
    return maps.permute(0, 2, 3, 1).flatten(0, 2).numpy()
