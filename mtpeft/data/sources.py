"""Data sets by name, as recipes write them: `dict(type="FashionMNIST")`, `dict(type="torchvision.CIFAR100", ...)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mtpeft.errors import ConfigError, DataError, UnknownNameError, nearest

Factory = TypeVar("Factory", bound=Callable[..., Any])

_REGISTRY: dict[str, Callable[..., Any]] = {}


def register_dataset(name: str) -> Callable[[Factory], Factory]:
    """Register a class or function `factory(train: bool, **arguments)` that returns a torchvision-style data set.

    Such a data set has `targets` (one int per image), may have `classes` (their names) and `data` (uint8 images of
    one size), and gives (PIL image or float tensor, label). Raises `ConfigError` for a name registered twice.
    """

    def add(factory: Factory) -> Factory:
        if name in _REGISTRY and _REGISTRY[name] is not factory:
            raise ConfigError(f"data set {name!r} is registered already; choose another name")
        _REGISTRY[name] = factory
        return factory

    return add


def dataset_names() -> list[str]:
    """The registered names; any class of torchvision.datasets comes on top, as `torchvision.NAME`."""
    return sorted(_REGISTRY)


def build_dataset(config: Mapping[str, Any], train: bool = True) -> Any:
    """The data set that `config` describes: `type` is a registered name or `torchvision.NAME`, the rest its arguments.

    A torchvision class that takes `split` instead of `train` gets "train" and "test", or the two of `splits`.
    Raises `UnknownNameError` for the type, `ConfigError` for an argument it does not take, `DataError` when the data
    are missing or damaged.
    """
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind is None:
        raise ConfigError(f"a data set needs a key 'type', got only {sorted(arguments)}")
    if str(kind).startswith("torchvision."):
        return _torchvision(str(kind), train, arguments)
    if kind not in _REGISTRY:
        raise UnknownNameError("data set", kind, [*_REGISTRY, "torchvision.CIFAR100"], "key data.type")
    factory = _REGISTRY[kind]
    _check_arguments(str(kind), factory, arguments, exclude={"train"})
    return factory(train=train, **arguments)


@register_dataset("FashionMNIST")
def _fashion_mnist(train: bool, root: str | None = None) -> Any:
    from mtpeft.data.fashion_mnist import FashionMNIST

    return FashionMNIST(root=root, train=train)


@register_dataset("Digits")
def _digits(train: bool) -> Any:
    from mtpeft.data.digits import Digits

    return Digits(train=train)


@register_dataset("ImageFolder")
def _image_folder(train: bool, root: str) -> Any:
    """`root` holds train/ and test/ (or val/), each with one folder of images per class."""
    from torchvision.datasets import ImageFolder

    choices = ["train"] if train else ["test", "val"]
    for part in choices:
        if (Path(root) / part).is_dir():
            try:
                return ImageFolder(str(Path(root) / part))
            except (OSError, RuntimeError) as error:
                raise DataError(f"ImageFolder {Path(root) / part}: {_one_line(error)}") from error
    raise DataError(f"ImageFolder {root}: no folder {' or '.join(choices)} in it; it must hold one folder per class")


def read_targets(dataset: Any, name: str) -> list[int]:
    """The labels, where torchvision's classes keep them, through the data set's own target transform."""
    labels: Any = None
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None:
            break
    else:
        pairs = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
        if pairs is None:
            raise DataError(f"{name}: no labels found; give the data set an attribute `targets`, one int per image")
        labels = [label for _, label in pairs]
    mapping = getattr(dataset, "target_transform", None)
    values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else list(labels)
    if mapping is not None:
        values = [mapping(value) for value in values]
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise DataError(f"{name}: label {value!r} at index {index}, expected an int")
    if len(values) != len(dataset):
        raise DataError(f"{name}: {len(values)} labels for {len(dataset)} images")
    return [int(value) for value in values]


def read_class_names(dataset: Any, targets: Sequence[int]) -> tuple[str, ...]:
    """The names of the classes; the labels themselves when the data set does not name them."""
    names = getattr(dataset, "classes", None)
    if names is not None:
        return tuple(str(name) for name in names)
    return tuple(str(label) for label in range(max(targets, default=-1) + 1))


def read_pixels(dataset: Any) -> Tensor | None:
    """uint8 (N, 1 or 3, H, W) when the data set keeps all its images as one array and has no transform; else None."""
    transforms = (getattr(dataset, "transform", None), getattr(dataset, "transforms", None))
    data = getattr(dataset, "data", None)
    if any(transform is not None for transform in transforms) or not isinstance(data, Tensor | np.ndarray):
        return None
    pixels = torch.as_tensor(data)
    if pixels.dtype != torch.uint8 or pixels.ndim not in (3, 4):
        return None
    if pixels.ndim == 3:  # (N, H, W)
        return pixels[:, None]
    if pixels.shape[-1] in (1, 3):  # (N, H, W, C)
        return pixels.permute(0, 3, 1, 2).contiguous()
    return pixels if pixels.shape[1] in (1, 3) else None


def _torchvision(kind: str, train: bool, arguments: dict[str, Any]) -> Any:
    from torchvision import datasets

    name = kind.removeprefix("torchvision.")
    factory = getattr(datasets, name, None)
    if name not in datasets.__all__ or not inspect.isclass(factory):
        known_names = [f"torchvision.{known}" for known in datasets.__all__]
        raise UnknownNameError("data set", kind, known_names, "key data.type")
    parts = arguments.pop("splits", ("train", "test"))
    parameters = inspect.signature(factory).parameters
    _check_arguments(kind, factory, arguments, exclude={"train", "split"})
    if "train" in parameters:
        arguments["train"] = train
    elif "split" in parameters:
        arguments["split"] = parts[0 if train else 1]
    else:
        raise DataError(f"{kind} has no training and test part of its own; lay its images out for type='ImageFolder'")
    try:
        return factory(**arguments)
    except (RuntimeError, OSError, ValueError, ImportError, EOFError) as error:
        raise DataError(f"{kind}: {_one_line(error)}") from error


def _check_arguments(kind: str, factory: Callable[..., Any], arguments: Mapping[str, Any], exclude: set[str]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    known = [name for name in parameters if name not in exclude]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"data set {kind!r} takes no argument {name!r}.{nearest(name, known)}")
    needed = {name for name in known if parameters[name].default is inspect.Parameter.empty}
    missing = sorted(needed - set(arguments))
    if missing:
        raise ConfigError(f"data set {kind!r} needs the argument {', '.join(missing)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
