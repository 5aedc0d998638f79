"""How good are frozen features? A linear probe (multinomial logistic regression) on data the training never saw."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mtpeft.errors import DataError

PROBE_IMAGES = 2000
"""Fashion-MNIST: the first so many training images and the first so many test images."""


@dataclass(frozen=True)
class ProbeData:
    """Images uint8 (N, H, W), labels (N,) and how many of them, from the start, are for fitting."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    fitted: int


def digits() -> ProbeData:
    """scikit-learn's 1797 digits, 8 x 8, shuffled with a fixed seed; 1000 to fit, 797 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = np.round(images[order].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ProbeData("scikit-learn digits", pixels, labels[order], 1000)


def fashion_mnist(folder: str | Path) -> ProbeData:
    """The first images of both splits. Raises `DataError` when the idx.gz files are not in `folder`."""
    images, labels = [], []
    for split in ("train", "t10k"):
        images.append(_idx(Path(folder) / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:PROBE_IMAGES])
        labels.append(_idx(Path(folder) / f"{split}-labels-idx1-ubyte.gz", 8)[:PROBE_IMAGES])
    return ProbeData("Fashion-MNIST", np.concatenate(images), np.concatenate(labels), PROBE_IMAGES)


def to_input(images: np.ndarray, size: int) -> torch.Tensor:
    """uint8 (N, H, W) to normalised (N, 3, size, size): enlarged to 7/8 of the size, on a black border."""
    pixels = torch.from_numpy(images).float().unsqueeze(1) / 255
    inner = size * 7 // 8
    scaled = F.interpolate(pixels, (inner, inner), mode="bilinear", align_corners=False)
    border = (size - inner) // 2
    rest = size - inner - border
    return F.pad(scaled, (border, rest, border, rest)).expand(-1, 3, -1, -1).sub(0.5).div(0.5)


@torch.no_grad()
def features(model: nn.Module, inputs: torch.Tensor, batch_size: int = 250) -> np.ndarray:
    """(N, D) outputs of the headless `model` in eval mode; its mode is restored."""
    training = model.training
    model.eval()
    outputs = torch.cat([model(part) for part in inputs.split(batch_size)])
    model.train(training)
    return outputs.numpy()


def accuracy(values: np.ndarray, data: ProbeData) -> float:
    """Share of the test samples that logistic regression on the standardised `values` (N, D) gets right."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    probe.fit(values[: data.fitted], data.labels[: data.fitted])
    return float(probe.score(values[data.fitted :], data.labels[data.fitted :]))


def _idx(path: Path, header: int) -> np.ndarray:
    """The bytes of an idx.gz file after its header."""
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror or error}): install the Debian package dataset-fashion-mnist, "
            "or set probe.fashion_mnist to its folder or to None"
        ) from error
    return np.frombuffer(content, np.uint8, offset=header)
