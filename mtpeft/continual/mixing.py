"""What acts on some kinds of data alone: mixed labels (mixup, cutmix, smoothing), and keys of `input`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.images import Images
from mtpeft.data.streams import Stream
from mtpeft.errors import ConfigError


def check_mixing(stream: Stream | DenseStream, plugins: Sequence[Any], loss: str, recipe: str) -> None:
    """Raise `ConfigError` where labels are mixed and the run is not one task of classes by plain cross-entropy."""
    if isinstance(stream, DenseStream) or not any(isinstance(t.train, Images) and t.train.mixes for t in stream):
        return
    what = "augment.mixup, cutmix and smoothing are for one task of classes"
    if len(stream) > 1:
        raise ConfigError(f"recipe {recipe}: {what}, this stream has {len(stream)}; leave them out")
    if plugins:
        raise ConfigError(
            f"recipe {recipe}: {what} without plugins, whose memories and penalties need one class per image"
        )
    if loss != "cross_entropy":
        raise ConfigError(f"recipe {recipe}: {what} with the loss cross_entropy, not {loss}")


def check_input(stream: Stream | DenseStream, given: Mapping[str, Any], recipe: str) -> None:
    """Raise `ConfigError` for a key of `input` that clips do not have, where all tasks are clips."""
    if isinstance(stream, DenseStream) or any(isinstance(task.train, Images) for task in stream):
        return
    for key in ("interpolation", "crop_mode"):
        if key in given:
            raise ConfigError(f"recipe {recipe}: input.{key} changes images, but all tasks are clips; leave it out")
