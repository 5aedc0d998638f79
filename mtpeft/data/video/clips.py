"""Labelled clips as a stream takes them: for clips what `Images` is for images."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtpeft.data.video.dataset import SkipTally, VideoDataset
from mtpeft.data.video.registry import VIDEO_DATASETS, build_video_dataset
from mtpeft.errors import ConfigError

#: what `Clips.read_batch` gives: clips, labels, the names of the files that others stand for (empty where none does), and
#: what read each file by its name
Read = tuple[Tensor, Tensor, list[str], dict[str, str]]


class Clips:
    """N labelled clips: `name`, `targets` (N ints), `classes` (names), made from a `VideoDataset`.

    A batch x is float32 (B, 3, T, H, W), or (B, V, 3, T, H, W) in testing with V = views x crops > 1. The random numbers
    of training clips follow torch's global generator, as those of images do.
    """

    numbered = False

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset
        self.tally = SkipTally(dataset)

    @property
    def name(self) -> str:
        """The data set's, for messages."""
        return self.dataset.name

    @property
    def targets(self) -> list[int]:
        """The label of every clip."""
        return self.dataset.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names."""
        return self.dataset.classes

    @property
    def skipped(self) -> list[str]:
        """Names of the unreadable training files met so far, in every process."""
        return sorted(self.tally.skipped)

    @property
    def readers(self) -> dict[str, int]:
        """What read how many files so far, in every process: a decoder, and why where it is not the one asked for."""
        return dict(sorted(Counter(self.tally.readers.values()).items()))

    def __len__(self) -> int:
        return len(self.dataset)

    def read_batch(self, indices: Sequence[int]) -> Read:
        """What a loader's worker does for `batch`."""
        dataset = self.dataset
        if dataset.train:
            dataset = dataset.at_epoch(int(torch.randint(2**62, ())))
        samples = [dataset[index] for index in indices]
        x = torch.stack([sample["video"] for sample in samples])
        if not dataset.train and x.shape[1] == 1:
            x = x.squeeze(1)
        readers = {sample["name"]: sample["reader"] for sample in samples if sample["reader"]}
        labels = torch.tensor([sample["label"] for sample in samples])
        return x, labels, [sample["skipped"] for sample in samples], readers

    def received(self, batch: Read) -> tuple[Tensor, Tensor]:
        """What the process that trains does: count the unreadable files of a batch, and what read the others.

        Raises `DataError` when they are more than `max_bad_share` of all by now.
        """
        x, labels, skipped, readers = batch
        self.tally.update(skipped, readers)
        return x, labels

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """B clips (see above) and their labels, int64 (B,), read in this process.

        An unreadable training file is replaced, label and all; an unreadable test file is a `DataError`.
        """
        return self.received(self.read_batch(indices))

    def plain(self) -> Clips:
        """The same clips, shown as in testing."""
        new = copy.copy(self)
        new.dataset = self.dataset.plain()
        return new

    def subset(
        self,
        indices: Sequence[int],
        label_map: Mapping[int, int] | None = None,
        name: str = "",
        classes: Sequence[str] | None = None,
    ) -> Clips:
        """The clips at `indices`; `label_map` gives the new label of every old one among them (see `VideoDataset`)."""
        return Clips(self.dataset.subset(indices, label_map, name, classes))

    @property
    def facts(self) -> dict[str, Any]:
        """What results must say beside the recipe: `decoder` with its version, `sampling`, and `frames` of a clip."""
        facts = self.dataset.facts
        return {"decoder": facts["decoder"], "sampling": facts["sampling"], "frames": self.dataset.sampling.frames}

    def describe(self) -> dict[str, Any]:
        """How the clips are read and shown, in plain types."""
        shown = {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.dataset.transform).items()
        }
        return {**self.facts, "views": self.dataset.views, "crops": self.dataset.crops, **shown}


def is_video(config: Any) -> bool:
    """Whether a recipe's `data` is one of VIDEO_DATASETS."""
    return isinstance(config, Mapping) and isinstance(config.get("type"), str) and config["type"] in VIDEO_DATASETS


def build_clips(config: Mapping[str, Any], data_config: Mapping[str, Any], train: bool) -> Clips:
    """Clips of `dict(type="motion", frames=8, ...)`: `type` is one of VIDEO_DATASETS, the rest are the options of
    `build_video_dataset`.

    The split is "train", or "val" for testing. Size, mean, std and crop ratio are those of the backbone's `data_config`
    (timm's `resolve_model_data_config`) unless they are given.
    """
    options = dict(config)
    name = str(options.pop("type"))
    for key, instead in (("split", "a stream trains on 'train' and tests on 'val'"), ("name", "its name is data.type")):
        if key in options:
            raise ConfigError(f"data set {name!r}: leave out data.{key}: {instead}")
    height, width = data_config["input_size"][1:]
    if "size" not in options and height != width:
        raise ConfigError(
            f"data set {name!r}: clips are square, but the backbone takes {height} x {width}; give data.size"
        )
    shown = {
        "size": height,
        "mean": data_config["mean"],
        "std": data_config["std"],
        "crop_ratio": float(data_config.get("crop_pct") or 1.0),
    }
    return Clips(build_video_dataset(name, "train" if train else "val", **{**shown, **options}))
