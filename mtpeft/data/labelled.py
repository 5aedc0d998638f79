"""What streams take: labelled images or labelled clips, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mtpeft.data.images import Images
from mtpeft.data.sources import dataset_names
from mtpeft.data.to_images import as_images, build_images
from mtpeft.data.transforms import Augment
from mtpeft.data.video.clips import Clips, build_clips, is_video
from mtpeft.data.video.dataset import VideoDataset
from mtpeft.data.video.registry import VIDEO_DATASETS
from mtpeft.errors import ConfigError, DataError, UnknownNameError


class Labelled(Protocol):
    """N labelled items that `Images` and `Clips` both are: `targets` are N ints, `classes` names."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def targets(self) -> list[int]:
        """The label of every item."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names."""

    @property
    def numbered(self) -> bool:
        """Whether all parts number their classes alike, so that a class may be absent from one."""

    @property
    def skipped(self) -> Sequence[str]:
        """Names of the unreadable training files met so far."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the backbone takes, (B, ...), and labels (B,)."""

    def plain(self) -> Labelled:
        """The same without augmentation."""

    def subset(
        self,
        indices: Sequence[int],
        label_map: Mapping[int, int] | None = None,
        name: str = "",
        classes: Sequence[str] | None = None,
    ) -> Labelled:
        """The items at `indices`, under the labels that `label_map` gives to the old ones, and the names `classes`."""

    def describe(self) -> dict[str, Any] | None:
        """How items are shown, in plain types."""


def build_labelled(
    data: Any,
    data_config: Mapping[str, Any],
    train: bool,
    augment: Mapping[str, Any] | Augment | None = None,
) -> Labelled:
    """The data set of a recipe's key `data`, by its `type`: images (`build_images`) or clips (`build_clips`).

    `augment` changes images when `train` is true; raises `ConfigError` when it is given for clips.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"stream: data must be a mapping such as dict(type='FashionMNIST'), got {data!r}")
    if is_video(data):
        if train and augment is not None:
            raise ConfigError(f"augment changes images; clips of {data['type']!r} are augmented by data.augment")
        return build_clips(data, data_config, train)
    kind = data.get("type")
    if kind is not None and kind not in dataset_names() and not str(kind).startswith("torchvision."):
        raise UnknownNameError(
            "data set", kind, [*dataset_names(), *VIDEO_DATASETS, "torchvision.CIFAR100"], "data.type"
        )
    return build_images(data, data_config, train, augment)


def build_labelled_parts(
    data: Any, data_config: Mapping[str, Any], augment: Mapping[str, Any] | Augment | None = None
) -> tuple[Labelled, Labelled]:
    """Training and test part. Raises `DataError` where they hold the same samples, and what `build_labelled` does."""
    train = build_labelled(data, data_config, train=True, augment=augment)
    test = build_labelled(data, data_config, train=False)
    if isinstance(train, Images) and isinstance(test, Images):
        check_distinct(train, test)
    return train, test


def check_distinct(train: Images, test: Images) -> None:
    """Raise `DataError` when a file is in both parts, or both have the same labels and, at three places, the same pixels."""
    remedy = (
        "a test on what was trained tells nothing; give the parts different samples (data.splits, or the arguments)"
    )
    ours, theirs = train.files, test.files
    if ours is not None and theirs is not None:
        shared = sorted(set(_real(ours)) & set(_real(theirs)))
        if shared:
            raise DataError(
                f"{train.name} and {test.name}: {len(shared)} files are in both, first {shared[0]}; {remedy}"
            )
    if train.targets != test.targets:
        return
    try:
        same = all(torch.equal(train.raw(i), test.raw(i)) for i in {0, len(train) // 2, len(train) - 1})
    except DataError:  # an image that cannot be read is told of where it is used
        return
    if same:
        raise DataError(f"{train.name} and {test.name} are the same {len(train)} samples; {remedy}")


def check_apart(tasks: Sequence[tuple[str, Labelled, Labelled]]) -> None:
    """Raise `DataError` when a file that one of the (name, training part, test part) trains on is in another's parts."""
    owner: dict[str, str] = {}
    for name, train, _ in tasks:
        for file in _real(_files(train)):
            if owner.setdefault(file, name) != name:
                raise DataError(f"{file} is trained on in {owner[file]!r} and in {name!r}; give them different data")
    for name, _, test in tasks:
        for file in _real(_files(test)):
            if owner.get(file, name) != name:
                raise DataError(
                    f"{file} is trained on in {owner[file]!r} and tested on in {name!r}; give them other data"
                )


def _files(data: Labelled) -> list[str]:
    return (data.files or []) if isinstance(data, Images) else []


def _real(files: Sequence[str]) -> list[str]:
    """What `os.path.realpath` gives, at a look per file: folders are resolved once."""
    folders: dict[str, str] = {}
    found = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)
        found.append(os.path.realpath(path) if os.path.islink(path) else path)
    return found


def as_labelled(dataset: Any) -> Labelled:
    """Clips and images as they are, a `VideoDataset` as clips, any other data set as images (`as_images`)."""
    if isinstance(dataset, Clips):
        return dataset
    return Clips(dataset) if isinstance(dataset, VideoDataset) else as_images(dataset)
