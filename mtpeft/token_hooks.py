"""Hooks for tokens: prompts that enter a block and leave it again, and query-only tokens that read a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.attachment import Attachment
from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.site import Site
from mtpeft.runtime import Context, Runtime


@dataclass(eq=False)
class TokenSource:
    """Where the prompts of one block come from: a site module, or (site None) what left the block before."""

    attachment: Attachment
    site: str | None
    block: int
    keep: bool

    def tokens(self, context: Context, x: torch.Tensor) -> torch.Tensor:
        """Prompts (B, p, C) for block input x (B, N, C)."""
        if self.site is not None:
            return self.attachment(self.site, context, x).to(x.dtype)
        return context.store[self.attachment, "carry", self.block - 1]

    def leave(self, context: Context, tokens: torch.Tensor) -> None:
        """Keep what left the block for the next one. Keyed by block: checkpointing runs blocks again, backwards."""
        if self.keep:
            context.store[self.attachment, "carry", self.block] = tokens


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


class QueryHook:
    """Sends query-only tokens through a block after its own pass: they read its keys and values and change nothing.

    The main stream is the plain backbone's own computation; only the query rows need activations.
    """

    def __init__(self, attachment: Attachment, site: Site, runtime: Runtime, instrument: InstrumentedAttention) -> None:
        """`instrument` records the keys and values of the main pass."""
        self.attachment, self.site, self.runtime, self.instrument = attachment, site, runtime, instrument

    def __call__(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
        """Forward hook with keyword arguments; the outputs wait in the store until features are pooled."""
        context = self.runtime.context
        if context is None:
            return
        queries = self.attachment(self.site.key, context, args[0])
        self.instrument.query_only = True
        try:
            read = block.forward(queries, *args[1:], **kwargs)
        finally:
            self.instrument.query_only = False
            self.instrument.recorded = None
        context.store[self.attachment, "queries", self.site.block] = read
