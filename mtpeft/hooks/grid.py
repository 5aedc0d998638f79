"""Hooks that keep track of the token map's height and width, which belong to a forward and not to a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtpeft.backbones.probe import stem_map, told_grid
from mtpeft.hooks.runtime import Runtime


class StemGridHook:
    """Forward hook on the layer that makes patches: its output is the map, padding included."""

    def __init__(self, runtime: Runtime) -> None:
        """The hook acts whenever `runtime` has a context."""
        self.runtime = runtime

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Called by the module this hook is on."""
        if self.runtime.context is not None:
            self.runtime.context.grid = stem_map(module, output.shape)[1:]


class BlockGridHook:
    """Forward pre-hook on a block that runs on a map, or is told the one of its sequence: pyramids change it on the way.

    Checkpointing runs blocks again backwards, and every block then finds its own map once more.
    """

    def __init__(self, runtime: Runtime, channels_first: bool = False) -> None:
        """The hook acts whenever `runtime` has a context. `channels_first`: the block's maps are (B, C, H, W)."""
        self.runtime, self.channels_first = runtime, channels_first

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Called by the block this hook is on."""
        if self.runtime.context is not None:
            self.runtime.context.grid = told_grid(args, self.channels_first)
