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

    `warmup` is a share of all steps, `patch_drop` the share of patch tokens left out in training, `gray` the share of
    images turned gray, `paste` the share of images that get the object of another one. The loss is the sum of
    `classification` x cross-entropy, `thumbnail` x the error of the redrawn thumbnail, `gradients` x the error of the
    predicted gradient histograms and `relief` x the error of the relief of objects. `paste` and `relief` need a pyramid
    and images of the family random_objects; both are 0 otherwise.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    patch_drop: float
    gray: float
    paste: float
    classification: float
    thumbnail: float
    gradients: float
    relief: float
    threads: int


@dataclass(frozen=True)
class ProbeSection:
    """What the card measures; None leaves a measurement out.

    `fashion_mnist` is the folder of the four idx.gz files; `scenes` are how many rendered scenes of each split serve
    to fit and to test the regression from the maps.
    """

    fashion_mnist: str | None
    scenes: tuple[int, int] | None
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
    for key, share in {"train.gray": train.gray, "train.paste": train.paste}.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {key} is {share}, it must be a share from 0 to 1")
    if (train.paste or train.relief) and not config.data.categories.get("random_objects"):
        raise ConfigError(f"{where}: train.paste and train.relief need images of the family random_objects, or be 0")
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
