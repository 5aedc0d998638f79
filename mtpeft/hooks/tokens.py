"""Hooks for tokens: prompts that enter a block and leave it again, and query-only tokens that read a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.site import Site
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime


@dataclass(eq=False)
class TokenSource:
    """Where the prompts of one block come from: a site module, or (site None) what left the block before.

    `merging` is the patch merging between the two blocks. It sees each prompt four times along the channels, as the
    authors of VPT pass prompts from stage to stage of Swin: a map whose 2 x 2 cells hold one prompt each does that.
    `pool`: what leaves this block, the last one, counts among the tokens that features are pooled over.
    """

    attachment: Attachment
    site: str | None
    block: int
    keep: bool
    merging: nn.Module | None = None
    pool: bool = False

    def tokens(self, context: Context, x: torch.Tensor) -> torch.Tensor:
        """Prompts (B, p, C) for block input x (B, N, C)."""
        if self.site is not None:
            return self.attachment(self.site, context, x).to(x.dtype)
        carried = context.store[self.attachment, "carry", self.block - 1]
        if self.merging is None:
            return carried
        cells = carried.repeat_interleave(2, dim=1).unsqueeze(1).expand(-1, 2, -1, -1)
        return self.merging(cells).squeeze(1)

    def leave(self, context: Context, tokens: torch.Tensor) -> None:
        """Keep what left the block for the next one. Keyed by block: checkpointing runs blocks again, backwards."""
        if self.keep:
            context.store[self.attachment, "carry", self.block] = tokens
        if self.pool:
            context.store[self.attachment, "pool"] = tokens


class TokenHook:
    """Puts prompts behind the prefix tokens of one block and takes them away after it.

    The block's output keeps timm's own shape, so every feature path of the model works as before.
    """

    def __init__(self, runtime: Runtime, prefix_tokens: int, instrument: InstrumentedAttention | None) -> None:
        """`instrument` is told of the extra tokens where attention knows positions."""
        self.runtime, self.prefix_tokens, self.instrument = runtime, prefix_tokens, instrument
        self.sources: list[TokenSource] = []
        self.lengths: list[int] = []

    def insert(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Forward pre-hook with keyword arguments."""
        context = self.runtime.context
        if context is None:
            if self.instrument is not None:  # checkpointing may have stopped a block before its end
                self.instrument.extra_tokens = 0
            return args, kwargs
        x = args[0]
        prompts = [source.tokens(context, x) for source in self.sources]
        self.lengths = [p.shape[1] for p in prompts]
        if self.instrument is not None:
            self.instrument.extra_tokens = sum(self.lengths)
        prefix, patches = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        return (torch.cat([prefix, *prompts, patches], dim=1), *args[1:]), kwargs

    def remove(self, block: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook."""
        context = self.runtime.context
        if context is None:
            return output
        if self.instrument is not None:
            self.instrument.extra_tokens = 0
        start = self.prefix_tokens
        for source, length in zip(self.sources, self.lengths, strict=True):
            source.leave(context, output[:, start : start + length])
            start += length
        return torch.cat([output[:, : self.prefix_tokens], output[:, start:]], dim=1)


class WindowTokenHook:
    """Lets every window of one block see the same prompts; the map that passes through the block has no room for them.

    The windows' own queries find the prompts' keys and values in front of theirs, the projections the block itself makes of the
    normed prompts. Prompts that go on to the next block, or count in pooled features, then read every window themselves:
    their attention is averaged over the windows, and residuals, second norm and MLP follow as for any token.
    """

    calibrated = False  # the prompts share the windows' softmax

    def __init__(self, runtime: Runtime, instrument: InstrumentedAttention) -> None:
        """`instrument` is the block's own attention; it asks this hook for keys and values."""
        self.runtime, self.instrument = runtime, instrument
        self.sources: list[TokenSource] = []
        instrument.prefix_sources.append(self)
        instrument.recorders.append(self.record)

    def insert(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook with keyword arguments."""
        context = self.runtime.context
        if context is None:
            return
        x = args[0].flatten(1, 2)
        prompts = [source.tokens(context, x) for source in self.sources]
        context.store[self, "prompts"] = prompts
        context.store[self, "pair"] = self.instrument.keys_values(block.norm1(torch.cat(prompts, dim=1)))

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows (B nW, A, C), an image's in a row -> the prompts' keys and values, each (B nW, p, C)."""
        context = self.runtime.context
        if context is None:
            empty = x.new_zeros(x.shape[0], 0, self.instrument.attn.proj.in_features)
            return empty, empty
        keys, values = context.store[self, "pair"]
        windows = x.shape[0] // keys.shape[0]
        return keys.repeat_interleave(windows, dim=0), values.repeat_interleave(windows, dim=0)

    def record(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep the windows' pass for prompts that go on. In the store: checkpointing may stop a block before its end."""
        context = self.runtime.context
        if context is not None and any(source.keep or source.pool for source in self.sources):
            context.store[self, "windows"] = x, k, v

    def remove(self, block: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Forward hook; the block's output stays as it is."""
        context = self.runtime.context
        if context is None:
            return
        prompts = context.store.pop((self, "prompts"))
        if (windows := context.store.pop((self, "windows"), None)) is not None:
            tokens = torch.cat(prompts, dim=1)
            tokens = tokens + block.drop_path1(self.instrument.read(block.norm1(tokens), *windows))
            tokens = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
            for source, part in zip(self.sources, tokens.split([p.shape[1] for p in prompts], dim=1), strict=True):
                source.leave(context, part)
        del context.store[self, "pair"]


def merging_before(anatomy: Anatomy, block: int) -> nn.Module | None:
    """The module between `block` and the one before that changes the resolution, or None within a stage."""
    before, after = (anatomy.calls[anatomy.backbone.get_submodule(p)] for p in anatomy.blocks[block - 1 : block + 1])
    if before.output_shape == after.input_shape:
        return None
    shapes = before.output_shape, after.input_shape
    between = {
        call.order: module
        for module, call in anatomy.calls.items()
        if before.order < call.order < after.order and (call.input_shape, call.output_shape) == shapes
    }
    return between[max(between)]  # a whole stage may have these shapes too; it begins before its merging


class QueryHook:
    """Sends query-only tokens through a block after its own pass: they read its keys and values and change nothing.

    The main stream is the plain backbone's own computation; only the query rows need activations.
    """

    def __init__(self, attachment: Attachment, site: Site, runtime: Runtime, instrument: InstrumentedAttention) -> None:
        """`instrument` tells this hook of the keys and values of the main pass."""
        self.attachment, self.site, self.runtime, self.instrument = attachment, site, runtime, instrument
        instrument.recorders.append(self.record)

    def record(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep the main pass's keys and values. In the store: checkpointing may stop a block before its end."""
        context = self.runtime.context
        if context is not None:
            context.store[self, "pair"] = k, v

    def __call__(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        """Forward hook with keyword arguments; the outputs wait in the store until features are pooled."""
        context = self.runtime.context
        if context is None:
            return
        queries = self.attachment(self.site.key, context, args[0])
        self.instrument.reading = context.store.pop((self, "pair"))
        try:
            read = block.forward(queries, *args[1:], **kwargs)
        finally:
            self.instrument.reading = None
        context.store[self.attachment, "queries", self.site.block] = read
