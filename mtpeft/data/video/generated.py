"""Made-up videos in the place of a published data set: for plans, which have no files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mtpeft.data.video.dataset import Array, VideoDataset
from mtpeft.data.video.records import Listing, VideoRecord

LENGTH = 300
"""Frames of a made-up video: ten seconds."""


def generated_listing(classes: Sequence[str], per_class: int) -> Listing:
    """`per_class` videos, of no file, of each class."""
    names = ((label, f"{name}/{number}") for label, name in enumerate(classes) for number in range(per_class))
    return Listing(tuple(VideoRecord(name, label, name) for label, name in names), tuple(classes))


class GeneratedVideos(VideoDataset):
    """A `VideoDataset` whose frames are noise, a function of their video; sampling and transforms are as ever."""

    def _frames(self, record: VideoRecord, choose: Callable[[int], Array]) -> Array:
        count = np.asarray(choose(LENGTH)).size
        height = self.transform.size
        rng = np.random.default_rng(zlib.crc32(record.path.encode()))
        return rng.integers(0, 256, (count, height, height * 4 // 3, 3), dtype=np.uint8)
