"""Hooks that see clips as clips: the backbone runs on frames, (B T, N, C) or (B T, H, W, C); a method sees (B, T, N, C)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.site import Site
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime
from mtpeft.hooks.sites import ParallelHook, RowsHook, SiteHook


def add_by_frames(hook: SiteHook, context: Context, x: torch.Tensor) -> torch.Tensor:
    """What the hook's module adds to the tokens of all frames, x (B T, ..., C), in the shape of x."""
    tokens = x.flatten(1, -2)
    return hook.module(context, tokens.unflatten(0, (-1, context.frames))).reshape(x.shape)


class FramesHook(SiteHook):
    """Forward pre-hook: adds the module's output to the first input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None or context.aside:
            return args
        x = self.site.shown(args[0])
        return (self.site.given_back(x + add_by_frames(self, context, x)), *args[1:])


class FramesRowsHook(RowsHook):
    """Forward hook of a projection: some rows of its output, such as the keys, are made new with all frames in view.

    Nothing is done to images, to tokens beside a frame's, nor where attention runs over time: its rows are no frames.
    """

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None or context.frames == 1 or context.over_time or context.aside:
            return output
        return super().__call__(module, args, output)

    def changed(self, key: str, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Rows y (B T, N, d) -> the same shape."""
        changed: torch.Tensor = self.attachment(key, context, y.unflatten(0, (-1, context.frames)))
        return changed.flatten(0, 1)


class FramesBranchHook(ParallelHook):
    """Forward hook at the end of a residual branch: adds what the module makes of the stream after the branch.

    Prompts that are in the block meanwhile, and tokens beside a frame's, pass by: they have no place in it.
    """

    def add(self, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The branch's input x, which is the stream before it, and its output y -> the new output."""
        if context.aside:
            return y
        prompts = self.attachment.prompts.get(self.site.block or 0)
        if prompts is None:
            return y + add_by_frames(self, context, x + y)
        return y + prompts.put_back(add_by_frames(self, context, prompts.own(x + y)), torch.zeros_like(y))


class TemporalHook(SiteHook):
    """Forward pre-hook of a block: its own frozen norm and attention, over time in place of space, before the block.

    Every token attends to the tokens at its place in the clip's frames; the site's module turns what comes out into what
    is added to the stream. An image has no time: nothing is done. Methods attached to the projections act here too.
    """

    def __init__(self, attachment: Attachment, site: Site, runtime: Runtime, instrument: InstrumentedAttention) -> None:
        """`instrument` is that of the block's attention."""
        super().__init__(attachment, site, runtime)
        self.instrument = instrument
        self.entry: SiteHook | None = None  # acts between norm and attention

    def __call__(self, block: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Called by the block this hook is on."""
        context = self.runtime.context
        if context is None or context.frames == 1:
            return args
        x = args[0]
        clips = x.flatten(1, -2).unflatten(0, (-1, context.frames))  # (B, T, N, C)
        tracks = block.norm1(clips.transpose(1, 2).flatten(0, 1))  # (B N, T, C)
        if self.entry is not None:
            tracks = self.entry.module(context, tracks)
        context.over_time = True
        if context.temporal:
            weights = self.instrument.weights_without_positions(tracks)  # (B N, heads, T, T)
            context.store["temporal", self.site.block] = weights.mean(1).unflatten(0, (len(clips), -1)).mean(1)
        added = self.module(context, self.instrument.attend_without_positions(tracks))
        context.over_time = False
        added = added.unflatten(0, (len(clips), -1)).transpose(1, 2)
        return (x + added.reshape(x.shape), *args[1:])
