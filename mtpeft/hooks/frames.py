"""Hooks that see clips as clips: the backbone runs on frames, (B T, N, C) or (B T, H, W, C); a method sees (B, T, N, C)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.site import Site
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime
from mtpeft.hooks.sites import ParallelHook, SiteHook
from mtpeft.hooks.tokens import TokenHook


def add_by_frames(hook: SiteHook, context: Context, x: torch.Tensor) -> torch.Tensor:
    """What the hook's module adds to the tokens of all frames, x (B T, ..., C), in the shape of x."""
    tokens = x.flatten(1, -2)
    return hook.module(context, tokens.unflatten(0, (-1, context.frames))).reshape(x.shape)


class FramesHook(SiteHook):
    """Forward pre-hook: adds the module's output to the first input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Called by the module this hook is on."""
        context = self.runtime.context
        return args if context is None else (args[0] + add_by_frames(self, context, args[0]), *args[1:])


class FramesBranchHook(ParallelHook):
    """Forward hook at the end of a residual branch: adds what the module makes of the stream after the branch.

    Prompts that are in the block meanwhile pass by: they have no place in a frame.
    """

    def __init__(self, attachment: Attachment, site: Site, runtime: Runtime, prompts: Mapping[int, Any]) -> None:
        """`prompts`: the hooks that put prompts into blocks, by block."""
        super().__init__(attachment, site, runtime)
        self.prompts = prompts

    def add(self, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The branch's input x, which is the stream before it, and its output y -> the new output."""
        hook = self.prompts.get(self.site.block or 0)
        extra = sum(hook.lengths) if isinstance(hook, TokenHook) else 0
        if not extra:
            return y + add_by_frames(self, context, x + y)
        prefix, prompts, patches = (x + y).tensor_split(
            [self.site.prefix_tokens, self.site.prefix_tokens + extra], dim=1
        )
        added = add_by_frames(self, context, torch.cat([prefix, patches], dim=1))
        before, behind = added.tensor_split([self.site.prefix_tokens], dim=1)
        return y + torch.cat([before, torch.zeros_like(prompts), behind], dim=1)


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
        if context.temporal:
            weights = self.instrument.weights_without_positions(tracks)  # (B N, heads, T, T)
            context.store["temporal", self.site.block] = weights.mean(1).unflatten(0, (len(clips), -1)).mean(1)
        added = self.module(context, self.instrument.attend_without_positions(tracks))
        added = added.unflatten(0, (len(clips), -1)).transpose(1, 2)
        return (x + added.reshape(x.shape), *args[1:])
