"""The backbone's forward pass of training as one compiled graph.

What is compiled is `forward_features` with all hooks in it, where nearly all the time goes; heads stay as they are, so that
one that grows, or another task's, changes nothing. The graph is made for one number of images: a smaller batch, the last of
an epoch say, is filled up with copies of its first image, whose features nobody reads. A graph for any number would be
another for a run that goes on in the middle of an epoch, and round in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtpeft.hooks.runtime import Selection

#: torch.compile's; tests put another in its place
BACKEND: Any = "inductor"


class Compiled:
    """`backbone.forward_features` for multiples of `batch` images; as it is, from the first failure to compile it on."""

    def __init__(self, backbone: nn.Module, batch: int, message: Callable[[str], None]) -> None:
        """`message` is told in one line why nothing is compiled."""
        self.backbone, self.batch, self.message = backbone, batch, message
        model: Any = backbone
        self.plain: Callable[..., Any] = model.forward_features
        self.graph: Callable[..., Any] | None = None
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException  # slow to import

        self._failures = (TorchDynamoException, FailOnRecompileLimitHit)
        try:
            self.graph = torch.compile(self.plain, fullgraph=True, dynamic=False, backend=BACKEND)
        except RuntimeError as error:  # a Python or a system without it
            self._give_up(error)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> what `forward_features` gives."""
        if self.graph is not None:
            try:
                return self.graph(images)
            except self._failures as error:
                self._give_up(error)
        return self.plain(images)

    def filled(self, images: torch.Tensor, selection: Selection) -> tuple[torch.Tensor, Selection]:
        """The batch, images or clips, filled up to a multiple of `batch` by copies of the first one."""
        missing = -len(images) % self.batch
        if self.graph is None or not missing:
            return images, selection
        if any(isinstance(module, _BatchNorm) and module.training for module in self.backbone.modules()):
            self._give_up("batch norms of the backbone train, and copies that fill a batch up would count in them")
            return images, selection
        index = selection.index
        if index is not None:
            index = torch.cat([index, index[:1].expand(missing)])
        images = torch.cat([images, images[:1].expand(missing, *images.shape[1:])])
        return images, Selection(selection.tasks, index, selection.each)

    def _give_up(self, error: object) -> None:
        self.graph = None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        self.message(f"training.compile: the run goes on without a compiled graph: {reason[:200]}")
