"""Data sets by name, as recipes write them: `dict(type="FashionMNIST")`, `dict(type="torchvision.CIFAR100", ...)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mtpeft.data.hugging_face import hugging_face
from mtpeft.data.layouts import LAYOUTS
from mtpeft.data.layouts.folders import read_folders
from mtpeft.data.list_file import list_file
from mtpeft.data.objects.dataset import Objects
from mtpeft.data.picture_files import PictureFiles, part_of
from mtpeft.data.stand_ins import CLASSES, made_up
from mtpeft.data.torchvision_sources import build_torchvision, check_arguments
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.options import Share, WholeNumber, check_options

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


def dataset_options(name: str) -> list[str]:
    """The options of a registered data set, or of one of torchvision that can be made up; none for another name."""
    stood_in = ["generated"] if _can_be_made_up(name) else []
    return [*stood_in, *(inspect.signature(_REGISTRY[name]).parameters if name in _REGISTRY else ())]


def _can_be_made_up(name: Any) -> bool:
    """Whether the classes of a published data set are known without its files."""
    return name in LAYOUTS or name in CLASSES


def build_dataset(config: Mapping[str, Any], train: bool = True) -> Any:
    """The data set that `config` describes: `type` is a registered name or `torchvision.NAME`, the rest its arguments.

    How a torchvision class gets its part is said in `mtpeft.data.torchvision_sources`. `generated` images of noise of each
    class take the place of a published data set's files, which nothing looks for then: for plans.
    Raises `UnknownNameError` for the type, `ConfigError` for an argument it does not take, `DataError` when the data
    are missing or damaged.
    """
    arguments = dict(config)
    kind = arguments.pop("type", None)
    if kind is None:
        raise ConfigError(f"a data set needs a key 'type', got only {sorted(arguments)}")
    generated = arguments.pop("generated", 0) if _can_be_made_up(kind) else 0
    if str(kind).startswith("torchvision."):
        if generated:
            return made_up(str(kind), arguments, train, generated)
        return build_torchvision(str(kind), train, arguments)
    if kind not in _REGISTRY:
        raise UnknownNameError("data set", kind, [*_REGISTRY, "torchvision.CIFAR100"], "key data.type")
    factory = _REGISTRY[kind]
    check_arguments(str(kind), inspect.signature(factory).parameters, arguments, exclude={"train"})
    if kind in _TYPED:
        arguments = check_options(f"data set {kind!r}", factory, arguments, given=("train",), section="data")
    if generated:
        return made_up(str(kind), arguments, train, generated)
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
def _image_folder(train: bool, root: str, test_share: Share | None = None, split_seed: WholeNumber = 0) -> PictureFiles:
    """`root` holds train/ and test/ (or val/), each with one folder of images per class.

    With `test_share` it holds the folders of classes itself: that share of each, drawn by `split_seed`, is the test part.
    """
    if test_share is not None:
        whole = read_folders(Path(root), "ImageFolder")
        kept = part_of(whole.targets, test_share, split_seed, train)
        return PictureFiles([whole.samples[index] for index in kept], whole.classes)
    choices = ["train"] if train else ["test", "val"]
    for part in choices:
        if (Path(root) / part).is_dir():
            return read_folders(Path(root) / part, "ImageFolder")
    raise DataError(
        f"ImageFolder {root}: no folder {' or '.join(choices)} in it; it must hold one folder per class. Where it holds "
        "those of the classes itself, give data.test_share"
    )


register_dataset("ListFile")(list_file)
register_dataset("hf")(hugging_face)
register_dataset("Objects")(Objects)
for _name, _layout in LAYOUTS.items():
    register_dataset(_name)(_layout.build)
#: the data sets of this package whose arguments are checked by their annotations
_TYPED = {"ImageFolder", "ListFile", "Objects", "hf", *LAYOUTS}


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


def read_class_names(dataset: Any, targets: Sequence[int], name: str = "") -> tuple[str, ...]:
    """The names of the classes, from `classes` or `class_to_idx`; the labels themselves when the data set has neither.

    Raises `DataError` when the two disagree about which class has which label.
    """
    names, numbers = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    if names is not None:
        for place, own in enumerate(names):
            said = numbers.get(own, place) if isinstance(numbers, Mapping) and isinstance(own, str) else place
            if said != place and list(names).count(own) == 1:
                raise DataError(f"{name}: class {own!r} is number {place} in `classes`, but {said} in `class_to_idx`")
        return tuple(str(own) for own in names)
    found = tuple(str(label) for label in range(max(targets, default=-1) + 1))
    if isinstance(numbers, Mapping):
        by_number = {label: str(own) for own, label in numbers.items()}
        found = tuple(by_number.get(label, str(label)) for label in range(max([*by_number, len(found) - 1]) + 1))
    return found


def read_files(dataset: Any) -> list[str] | None:
    """One file per item, where torchvision's classes keep them; None when the data set does not tell."""
    for attribute in (
        "samples",
        "_samples",
        "imgs",
        "_image_files",
        "_images",
        "image_files",
        "files",
        "paths",
        "data",
    ):
        entries = getattr(dataset, attribute, None)
        if not isinstance(entries, list | tuple) or len(entries) != len(dataset) or not entries:
            continue
        files = [entry[0] if isinstance(entry, list | tuple) and entry else entry for entry in entries]
        if all(isinstance(file, str | Path) for file in files):
            return [str(file) for file in files]
    return None


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
