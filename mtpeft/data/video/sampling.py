"""Which frames make a clip: pure functions of the number of frames and a generator.

A video with too few frames is padded by one of two rules: "repeat" its last frame, or "loop" from its start.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mtpeft.errors import ConfigError

Array = np.ndarray

PADDING = ("repeat", "loop")


class Sampling(Protocol):
    """Chooses the frames of a clip; both methods return int64 indices within the video."""

    @property
    def frames(self) -> int:
        """T, the number of frames of a clip."""
        ...

    def train(self, num_frames: int, rng: np.random.Generator) -> Array:
        """One random clip: (T,)."""
        ...

    def test(self, num_frames: int, views: int = 1) -> Array:
        """`views` clips, the same at every call: (V, T)."""
        ...


@dataclass(frozen=True)
class SegmentSampling:
    """One frame of each of T equal segments (Wang et al. 2016, TSN): random in training, the centre in testing.

    Segment i holds the frames from floor(i N / T) to floor((i + 1) N / T) - 1 of N. View v of V takes the place
    (v + 1/2) / V of every segment. With N < T the frames are 0, 1, ... padded.
    """

    frames: int = 8
    pad: str = "repeat"

    def __post_init__(self) -> None:
        _check(self.frames, 1, self.pad)

    def train(self, num_frames: int, rng: np.random.Generator) -> Array:
        """One random frame per segment: (T,)."""
        if num_frames < self.frames:
            return _padded(np.arange(self.frames), num_frames, self.pad)
        edges = self._edges(num_frames)
        return rng.integers(edges[:-1], edges[1:])

    def test(self, num_frames: int, views: int = 1) -> Array:
        """(V, T)."""
        if num_frames < self.frames:
            return np.tile(_padded(np.arange(self.frames), num_frames, self.pad), (views, 1))
        edges = self._edges(num_frames)
        places = (np.arange(views)[:, None] + 0.5) / views
        return edges[:-1] + (places * np.diff(edges)).astype(np.int64)

    def _edges(self, num_frames: int) -> Array:
        return np.arange(self.frames + 1) * num_frames // self.frames


@dataclass(frozen=True)
class DenseSampling:
    """T frames, `stride` apart (Feichtenhofer et al. 2019, SlowFast, sec. 4): from a random start in training.

    Test views start evenly from the first to the last possible frame; a single view stands in the middle. Frames past
    the end are padded.
    """

    frames: int = 16
    stride: int = 4
    pad: str = "repeat"

    def __post_init__(self) -> None:
        _check(self.frames, self.stride, self.pad)

    def train(self, num_frames: int, rng: np.random.Generator) -> Array:
        """From a random start: (T,)."""
        return self._from(np.array(rng.integers(self._room(num_frames) + 1)), num_frames)

    def test(self, num_frames: int, views: int = 1) -> Array:
        """(V, T)."""
        room = self._room(num_frames)
        starts = np.array([room // 2]) if views == 1 else np.round(np.linspace(0, room, views)).astype(np.int64)
        return self._from(starts[:, None], num_frames)

    def _room(self, num_frames: int) -> int:
        return max(0, num_frames - (self.frames - 1) * self.stride - 1)

    def _from(self, start: Array, num_frames: int) -> Array:
        return _padded(start + np.arange(self.frames) * self.stride, num_frames, self.pad)


def build_sampling(name: str, frames: int, stride: int = 4, pad: str = "repeat") -> Sampling:
    """ "segment" or "dense"; `stride` counts for dense sampling only. Raises `ConfigError` for anything else."""
    if name == "segment":
        return SegmentSampling(frames, pad)
    if name == "dense":
        return DenseSampling(frames, stride, pad)
    raise ConfigError(f"data.sampling is {name!r}, expected 'segment' or 'dense'")


def describe_sampling(sampling: Sampling) -> dict[str, Any]:
    """What `build_sampling` takes to build it again."""
    assert isinstance(sampling, (SegmentSampling, DenseSampling))
    return {"name": "segment" if isinstance(sampling, SegmentSampling) else "dense", **dataclasses.asdict(sampling)}


def _padded(indices: Array, num_frames: int, pad: str) -> Array:
    return indices % num_frames if pad == "loop" else np.minimum(indices, num_frames - 1)


def _check(frames: int, stride: int, pad: str) -> None:
    for name, value in (("frames", frames), ("stride", stride)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"data.{name} is {value!r}, expected a whole number from 1")
    if pad not in PADDING:
        raise ConfigError(f"data.pad is {pad!r}, expected 'repeat' or 'loop'")
