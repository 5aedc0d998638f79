"""The margin of a cosine head: what the true class has to be better by, in training.

CosFace (Wang et al., CVPR 2018): cross-entropy of s (cos - m [true class]); evaluations know no margin.
"""

from __future__ import annotations

import torch

from mtpeft.continual.training import Training
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.images import Images
from mtpeft.data.streams import Stream
from mtpeft.errors import ConfigError
from mtpeft.heads import GrowingHead


def with_margin(logits: torch.Tensor, target: torch.Tensor, head: GrowingHead, margin: float) -> torch.Tensor:
    """Logits (B, classes) of a cosine head, with `scale * margin` off that of each target (B,)."""
    assert head.scale is not None
    off = torch.zeros_like(logits).scatter_(1, target[:, None], margin)
    return logits - head.scale(off)


def check_margin(training: Training, stream: Stream | DenseStream) -> None:
    """Refuse a margin where there are no cosines, or no one true class."""
    if training.margin == 0:
        return
    head = None if isinstance(stream, DenseStream) else stream[0].head
    if stream.kind != "class_incremental" or head is None or head.get("kind") != "cosine":
        raise ConfigError(
            "training.margin is for cosines: set stream.head=dict(name='growing', kind='cosine') on a class_incremental "
            "stream"
        )
    if any(isinstance(task.train, Images) and task.train.mixes for task in stream):
        raise ConfigError("training.margin is for images of one class each: leave out augment.mixup, cutmix, smoothing")
