"""Video: decoders behind one interface, sampling, clip transforms, data sets in the published layouts, `motion`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtpeft.data.video.check import check_videos
    from mtpeft.data.video.dataset import SkipTally, VideoDataset, VideoSample
    from mtpeft.data.video.decoders import open_video
    from mtpeft.data.video.decoding import read_clip
    from mtpeft.data.video.registry import VIDEO_DATASETS, build_video_dataset

#: imported on first use, so that the decoding process does not import torch
_LAZY = {
    "VIDEO_DATASETS": "registry",
    "SkipTally": "dataset",
    "VideoDataset": "dataset",
    "VideoSample": "dataset",
    "build_video_dataset": "registry",
    "check_videos": "check",
    "open_video": "decoders",
    "read_clip": "decoding",
}

__all__ = [
    "VIDEO_DATASETS",
    "SkipTally",
    "VideoDataset",
    "VideoSample",
    "build_video_dataset",
    "check_videos",
    "open_video",
    "read_clip",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mtpeft.data.video' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mtpeft.data.video.{_LAZY[name]}"), name)
