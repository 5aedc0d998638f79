"""Hooks at the ends of blocks: features of several scales, and task streams that leave the shared pass there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import to_2tuple
from timm.models.swin_transformer import window_reverse
from torch import nn

from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime
from mtpeft.methods.base import Taps


class StageHook:
    """Forward hook on the last block of a stage: keeps its output, plain, and its grid in the forward's store."""

    def __init__(self, runtime: Runtime, stage: int) -> None:
        """`stage` counts from the finest."""
        self.runtime, self.stage = runtime, stage

    def __call__(self, block: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Called by the block this hook is on."""
        context = self.runtime.context
        if context is not None and (context.stages or context.selection.each):
            context.store["stage", self.stage] = output, context.grid


class StreamHook:
    """Forward hook on a block with task weights: computes what each task's features have more than the shared ones.

    After the last block the task's own features take the place of the shared ones, so that the final norm and the heads
    see what is the task's; where every sample is for several tasks the shared ones go on (`mtpeft.manager.features`).
    """

    def __init__(
        self,
        attachment: Attachment,
        runtime: Runtime,
        block: int,
        stage: int,
        siblings: tuple[int, ...],
        last: bool,
    ) -> None:
        """`siblings`: blocks of the same stage with task weights, this one included; `last`: it is the last stage."""
        self.attachment, self.runtime, self.block = attachment, runtime, block
        self.stage, self.siblings, self.last = stage, siblings, last
        self.sites = {site.kind: site.key for site in attachment.factory.tapped if site.block == block}

    def __call__(self, block: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Called by the block this hook is on."""
        context = self.runtime.context
        if context is None or not (context.stages or self.last):
            return None
        weights: Any = self.attachment.weights
        selection = context.selection
        taps, self.runtime.context = self.taps(context, block, args[0], output), None
        try:  # other methods act on the shared pass alone
            offsets = weights.offsets(self.block, selection.tasks, taps)
        finally:
            self.runtime.context = context
        context.store[self.attachment, "offset", self.block] = offsets
        if self.block != self.siblings[-1]:
            return None
        total = sum(context.store[self.attachment, "offset", sibling] for sibling in self.siblings)
        assert isinstance(total, torch.Tensor)
        context.store["offsets", self.stage] = total
        if not self.last or selection.each:
            return None
        return apply_offsets(output, total, context)

    def taps(self, context: Context, block: nn.Module, entry: torch.Tensor, output: torch.Tensor) -> Taps:
        """What the block's sites kept of the shared pass; prompts of other methods pass by."""
        bank: Any = self.attachment.weights.banks()[0]
        kept = {kind: context.store[self.attachment, key] for kind, key in self.sites.items()}
        if (prompts := self.attachment.prompts.get(self.block)) is not None:
            kept = {kind: tuple(prompts.own(tokens) for tokens in pair) for kind, pair in kept.items()}
        modules = {kind: bank.sites[key] for kind, key in self.sites.items()}
        x, y = ({kind: pair[position] for kind, pair in kept.items()} for position in (0, 1))
        queries, keys = (context.store.get((self.attachment, name, self.block)) for name in ("asked", "keys"))
        return Taps(entry, output, x, y, modules, unwindow(block, entry), queries, keys, model=bank.model)


def apply_offsets(shared: torch.Tensor, offsets: torch.Tensor, context: Context) -> torch.Tensor:
    """Shared features (B, ...) and offsets (T, B, ...) -> the features of the selection: (B, ...), or (T B, ...) for `each`."""
    selection = context.selection
    if selection.each:
        return (shared.unsqueeze(0) + offsets).flatten(0, 1)
    if selection.index is None:
        return shared + offsets[0]
    index = selection.index.repeat_interleave(context.frames)
    return shared + offsets[index, torch.arange(shared.shape[0], device=shared.device)]


def unwindow(block: Any, entry: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What brings attention's rows back to the layout of the block's input: identity but for windows (Swin, SAM)."""
    if entry.ndim == 3 or not hasattr(block, "window_size"):
        return lambda rows: rows

    def back(rows: torch.Tensor) -> torch.Tensor:
        height, width = entry.shape[1:3]
        window, shift = to_2tuple(block.window_size), to_2tuple(getattr(block, "shift_size", 0))
        if not all(window):  # SAM's blocks that attend to the whole map
            return rows
        padded = tuple(-(-size // w) * w for size, w in zip((height, width), window, strict=True))
        grid = window_reverse(rows.reshape(-1, *window, rows.shape[-1]), window, *padded)
        return torch.roll(grid[:, :height, :width], shifts=shift, dims=(1, 2))

    return back
