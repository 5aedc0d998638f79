"""The keys of a pretraining recipe, each with its meaning. An unknown key is an error with the nearest names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from mtpeft.errors import ConfigError, UnknownNameError

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataSection:
    """`categories` maps a family of generated images to its number of categories; `cache` is a folder."""

    categories: dict[str, int]
    instances: int
    size: int
    workers: int
    cache: str


@dataclass(frozen=True)
class TrainSection:
    """AdamW; linear warm-up, then a cosine to zero.

    `warmup` is a share of all steps, `patch_drop` the share of patch tokens left out in training. The loss is the sum
    of `classification` x cross-entropy, `thumbnail` x the error of the redrawn thumbnail and `gradients` x the error of
    the predicted gradient histograms.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    patch_drop: float
    classification: float
    thumbnail: float
    gradients: float
    threads: int


@dataclass(frozen=True)
class ProbeSection:
    """`fashion_mnist` is the folder of the four idx.gz files, or None to leave this measurement out of the card."""

    fashion_mnist: str | None
    random_seeds: tuple[int, ...]


@dataclass(frozen=True)
class PretrainConfig:
    """A whole recipe. `output` is the folder that gets `MODEL.safetensors` and its card `MODEL.md`."""

    model: str
    seed: int
    output: str
    data: DataSection
    train: TrainSection
    probe: ProbeSection


def parse(values: dict[str, Any], where: str) -> PretrainConfig:
    """Check the recipe `values` read from `where`. Raises `ConfigError` for an unknown, missing or impossible value."""
    nested = {"data": DataSection, "train": TrainSection, "probe": ProbeSection}
    sections = {k: _section(nested[k], v, where, f"{k}.") if k in nested else v for k, v in values.items()}
    config = _section(PretrainConfig, sections, where, "")
    train = config.train
    positive = {
        "data.instances": config.data.instances,
        "data.workers": config.data.workers,
        "train.epochs": train.epochs,
        "train.batch_size": train.batch_size,
        "train.threads": train.threads,
        "train.learning_rate": train.learning_rate,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{where}: {key} is {value}, it must be above 0")
    if not 0 <= train.patch_drop < 1:
        raise ConfigError(f"{where}: train.patch_drop is {train.patch_drop}, it must be at least 0 and below 1")
    return config


def _section(kind: type[Section], values: Any, where: str, prefix: str) -> Section:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix.rstrip('.')} must be a dict, not {values!r}")
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UnknownNameError("recipe key", f"{prefix}{key}", [f"{prefix}{name}" for name in names], where)
    for name in names:
        if name not in values:
            raise ConfigError(f"{where}: the key {prefix}{name} is missing")
    return kind(**values)
