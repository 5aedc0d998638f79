"""Labelled clips ready for a video model."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from mtpeft.data.video.clip_cache import ClipCache
from mtpeft.data.video.decoders import decoder_version
from mtpeft.data.video.decoding import TIME_LIMIT, read_clip
from mtpeft.data.video.records import VideoRecord, check_share, too_many
from mtpeft.data.video.sampling import Sampling
from mtpeft.data.video.transforms import ClipTransform, view_boxes
from mtpeft.errors import ConfigError, DataError

Array = np.ndarray


class VideoSample(TypedDict):
    """One item. `video` is float32 (3, T, H, W), or (views x crops, 3, T, H, W) in testing.

    `index` and `name` are those of the video shown, `reader` says what read it (empty for made-up videos); `skipped` names
    the unreadable file it stands for, or is empty.
    """

    video: Tensor
    label: int
    index: int
    name: str
    skipped: str
    reader: str


class VideoDataset(Dataset[VideoSample]):
    """Clips of `records`. In training one random clip, in testing `views` x `crops` fixed ones.

    A training item is a function of (seed, epoch, index) alone, whatever the process that makes it. A training file that
    turns out to be unreadable is replaced by another, drawn in the same way, and named in the item (`SkipTally` counts
    them over all workers); a test file is an error, as a replacement would count another clip twice.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        classes: Sequence[str],
        sampling: Sampling,
        transform: ClipTransform,
        train: bool,
        seed: int = 0,
        views: int = 1,
        crops: int = 1,
        decoder: str = "decord",
        limit: float | None = TIME_LIMIT,
        cache_bytes: int = 0,
        max_bad_share: float = 0.0,
        name: str = "videos",
    ) -> None:
        """`limit`: seconds per clip (None decodes in this process, without protection). `cache_bytes`: memory for decoded
        videos in each process; they are then decoded whole. A loader's workers start anew with every epoch, and their
        caches with them: it is for loaders without workers. `max_bad_share`: of the records, unreadable in training.

        Raises `ConfigError` for numbers that cannot be or a decoder that is not installed, `DataError` for no record or
        a label that is no class.
        """
        check_share(max_bad_share)
        for key, value in (("views", views), ("cache_bytes", cache_bytes + 1)):
            if value < 1:
                raise ConfigError(f"data.{key} is {value if key == 'views' else cache_bytes}, which cannot be")
        if limit is not None and limit <= 0:
            raise ConfigError(f"data.limit is {limit}, expected seconds above 0")
        view_boxes(1, 1, crops)
        if not records:
            raise DataError(f"data set {name!r}: no video in it")
        for record in records:
            if not 0 <= record.label < len(classes):
                raise DataError(f"{record.path}: label {record.label}, expected 0 to {len(classes) - 1}")
        self.records = list(records)
        self.classes = tuple(classes)
        self.sampling, self.transform, self.train = sampling, transform, train
        self._replaces = train
        self.seed, self.views, self.crops = seed, views, crops
        self.decoder, self.limit, self.max_bad_share, self.name = decoder, limit, max_bad_share, name
        self.decoder_version = decoder_version(decoder)
        self.epoch = 0
        self.bad: dict[str, str] = {}
        self.readers: dict[str, str] = {}  # by path, of this process
        self._cache = ClipCache(cache_bytes)

    @property
    def targets(self) -> list[int]:
        """The label of every video."""
        return [record.label for record in self.records]

    @property
    def facts(self) -> dict[str, Any]:
        """What a run must record besides its recipe, in plain types: decoders pick frames differently."""
        return {"decoder": self.decoder_version, "videos": len(self), "sampling": repr(self.sampling)}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> VideoSample:
        skipped = ""
        for attempt in itertools.count():
            # A generator of its own, so that it does not matter what this process knew of the files before.
            rng = np.random.default_rng([self.seed, self.epoch, index, attempt])
            shown = int(rng.integers(len(self))) if attempt else index
            record = self.records[shown]
            try:
                video = self._clip(record, rng)
            except DataError as error:
                if not self._replaces:
                    raise
                self._count(record, error)
                skipped = skipped or record.name
            else:
                reader = self.readers.get(record.path, "")
                return VideoSample(
                    video=video, label=record.label, index=shown, name=record.name, skipped=skipped, reader=reader
                )
        raise AssertionError("unreachable")

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of an epoch; call it before the loader's workers start."""
        self.epoch = epoch

    def at_epoch(self, epoch: int) -> VideoDataset:
        """A view of the data set in that epoch, as `ResumableLoader` asks for it."""
        new = copy.copy(self)
        new.epoch = epoch
        return new

    def plain(self) -> VideoDataset:
        """The same videos, shown as in testing: fixed clips, no augmentation."""
        new = copy.copy(self)
        new.train = False
        return new

    def subset(
        self,
        indices: Sequence[int],
        label_map: Mapping[int, int] | None = None,
        name: str = "",
        classes: Sequence[str] | None = None,
    ) -> VideoDataset:
        """The videos at `indices`; `label_map` gives the new label of every old one among them.

        With a map, the class names become `classes`, by default those of the mapped labels in the order of the new labels.
        """
        new = copy.copy(self)
        new.name = name or self.name
        new.records = [self.records[index] for index in indices]
        if label_map is not None:
            new.records = [VideoRecord(r.path, label_map[r.label], r.name) for r in new.records]
            own = (self.classes[old] for old in sorted(label_map, key=label_map.__getitem__))
            new.classes = tuple(classes or own)
        return new

    def _clip(self, record: VideoRecord, rng: np.random.Generator) -> Tensor:
        if self.train:
            return self.transform.train(self._frames(record, functools.partial(self.sampling.train, rng=rng)), rng)
        frames = self._frames(record, functools.partial(self.sampling.test, views=self.views))
        return self.transform.test(frames, self.crops, self.views)

    def _frames(self, record: VideoRecord, choose: Callable[[int], Array]) -> Array:
        if record.path in self.bad:
            raise DataError(self.bad[record.path])
        if not self._cache.capacity:
            return self._read(record, choose)
        whole = self._cache.get(record.path)
        if whole is None:
            whole = self._read(record, np.arange)
            self._cache.put(record.path, whole)
        return whole[np.asarray(choose(len(whole))).reshape(-1)]

    def _read(self, record: VideoRecord, choose: Callable[[int], Array]) -> Array:
        clip = read_clip(record.path, choose, self.decoder, self.limit)
        self.readers[record.path] = clip.reader
        return clip.frames

    def _count(self, record: VideoRecord, error: DataError) -> None:
        """Note a file this process could not read; raises when it alone has met too many."""
        self.bad[record.path] = str(error)
        count = sum(own.path in self.bad for own in self.records)  # of a subset its own alone
        if count > self.max_bad_share * len(self) or count == len(self):
            raise too_many(self.name, count, len(self), str(error), self.max_bad_share) from error


class SkipTally:
    """Counts the unreadable files over all workers of a loader, from the batches the main process gets, and what read
    the others: `readers` by name of the file."""

    def __init__(self, dataset: VideoDataset) -> None:
        self.total, self.share, self.name = len(dataset), dataset.max_bad_share, dataset.name
        self.skipped: set[str] = set()
        self.readers: dict[str, str] = {}

    def update(self, skipped: Sequence[str], readers: Mapping[str, str] | None = None) -> None:
        """Take the key `skipped` of a batch, and what read its files by their names.

        Raises `DataError` when more than `max_bad_share` are unreadable by now.
        """
        self.readers.update(readers or {})
        self.skipped.update(name for name in skipped if name)
        if len(self.skipped) > self.share * self.total:
            raise too_many(self.name, len(self.skipped), self.total, sorted(self.skipped)[0], self.share)
