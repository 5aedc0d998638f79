"""Hooks for tokens: prompts that enter a block and leave it again, and query-only tokens that read a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.attention import InstrumentedAttention
from mtpeft.backbones.site import Site
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime


@dataclass(eq=False)
class TokenSource:
    """Where the prompts of one block come from: a site module, or (site None, or one that gives none) what left the block before.

    `merging` is the patch merging between the two blocks. It sees each prompt four times along the channels, as the
    authors of VPT pass prompts from stage to stage of Swin: a map whose 2 x 2 cells hold one prompt each does that.
    `origin` tells apart what is carried from several blocks.
    `pool`: what leaves this block, the last one, counts among the tokens that features are pooled over.
    `lifts` and `residual` as the site module has it; `tapped`: task streams of this block read the tokens.
    """

    attachment: Attachment
    site: str | None
    block: int
    keep: bool
    merging: nn.Module | None = None
    pool: bool = False
    origin: int = 0
    lifts: bool = False
    residual: bool = True
    tapped: bool = False

    def tokens(self, context: Context, x: torch.Tensor) -> torch.Tensor:
        """Prompts (B, p, C) for block input x (B, N, C)."""
        before = self.attachment, "carry", self.origin, self.block - 1
        if self.lifts and self.site is not None:
            left = (context.store[before],) if before in context.store else ()
            lifted: torch.Tensor = self.attachment(self.site, context, x, *left).to(x.dtype)
            return lifted
        if self.site is not None:
            own = self.attachment(self.site, context, x).to(x.dtype)
            if own.shape[1] or before not in context.store:
                return own
        carried = context.store[before]
        if self.merging is None:
            return carried
        cells = carried.repeat_interleave(2, dim=1).unsqueeze(1).expand(-1, 2, -1, -1)
        return self.merging(cells).squeeze(1)

    def leave(self, context: Context, tokens: torch.Tensor) -> None:
        """Keep what left the block for the next one. Keyed by block: checkpointing runs blocks again, backwards."""
        if self.keep:
            context.store[self.attachment, "carry", self.origin, self.block] = tokens
        if self.pool:
            context.store.setdefault((self.attachment, "pool"), {})[self.origin] = tokens


class TokenHook:
    """The forward of one block: puts prompts behind the prefix tokens and takes them away in the end.

    Hooks on the block itself, of whatever method and in whatever order, see its own tokens before and after; those inside
    it see the prompts among them. The block's output keeps timm's own shape, so every feature path of the model works as before.
    """

    def __init__(
        self, runtime: Runtime, block: nn.Module, prefix_tokens: int, instrument: InstrumentedAttention | None
    ) -> None:
        """`instrument` is told of the extra tokens where attention knows positions."""
        self.runtime, self.block, self.prefix_tokens, self.instrument = runtime, block, prefix_tokens, instrument
        self.sources: list[TokenSource] = []
        self.lengths: list[int] = []
        self.inside = False  # whether the block runs, with the prompts in it

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Block input (B, N, C) -> its output of that shape; other arguments are the block's."""
        context, native = self.runtime.context, type(self.block).forward
        if context is None or context.aside:
            plain: torch.Tensor = native(self.block, x, *args, **kwargs)
            return plain
        prompts = [source.tokens(context, x) for source in self.sources]
        self.lengths = [p.shape[1] for p in prompts]
        prefix, patches = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        try:
            self.inside = True
            if self.instrument is not None:
                self.instrument.extra_tokens = sum(self.lengths)
            output = native(self.block, torch.cat([prefix, *prompts, patches], dim=1), *args, **kwargs)
        finally:  # checkpointing stops a block before its end
            self.inside = False
            if self.instrument is not None:
                self.instrument.extra_tokens = 0
        before, *left, behind = self.parts(output)
        for source, tokens in zip(self.sources, left, strict=True):
            source.leave(context, tokens)
        return torch.cat([before, behind], dim=1)

    def parts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is (B, N, ...) inside the block, in parts: prefix tokens, the prompts of every source, patches."""
        behind = tokens.shape[1] - self.prefix_tokens - sum(self.lengths)
        return tokens.split([self.prefix_tokens, *self.lengths, behind], dim=1)

    def own(self, tokens: torch.Tensor) -> torch.Tensor:
        """What is (B, N, ...) inside the block without the prompts."""
        before, *_, behind = self.parts(tokens)
        return torch.cat([before, behind], dim=1) if sum(self.lengths) else tokens

    def put_back(self, own: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What became of the block's own tokens, with the prompts among all `tokens` as they are."""
        _, *prompts, _ = self.parts(tokens)
        before, behind = own.tensor_split([self.prefix_tokens], dim=1)
        return torch.cat([before, *prompts, behind], dim=1)


class WindowTokenHook:
    """Lets every window of one block see the same prompts; the map that passes through the block has no room for them.

    The windows' own queries find the prompts' keys and values in front of theirs, the projections the block itself makes of the
    normed prompts. Prompts that go on to the next block, or count in pooled features, then read every window themselves:
    their attention is averaged over the windows, and residuals, second norm and MLP follow as for any token, or as the
    method has it (`SiteModule.token_residual`).
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
        context.aside = True
        try:
            q, k, v = self.instrument.project_prompts(block.norm1(torch.cat(prompts, dim=1)))
        finally:
            context.aside = False
        context.store[self, "prompts"] = prompts
        context.store[self, "pair"] = k, v
        for source, queries in zip(self.sources, q.split([p.shape[1] for p in prompts], dim=2), strict=True):
            if source.tapped:
                context.store[source.attachment, "asked", source.block] = queries

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
        if context is None:
            return
        if any(source.keep or source.pool for source in self.sources):
            context.store[self, "windows"] = x, k, v
        for source in self.sources:
            if source.tapped:
                context.store[source.attachment, "keys", source.block] = k

    def remove(self, block: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Forward hook; the block's output stays as it is."""
        context = self.runtime.context
        if context is None:
            return
        prompts = context.store.pop((self, "prompts"))
        if (windows := context.store.pop((self, "windows"), None)) is not None:
            context.aside = True
            try:
                left = self._through(block, torch.cat(prompts, dim=1), windows, [p.shape[1] for p in prompts])
            finally:
                context.aside = False
            for source, part in zip(self.sources, left, strict=True):
                source.leave(context, part)
        del context.store[self, "pair"]

    def _through(
        self, block: Any, tokens: torch.Tensor, windows: Any, lengths: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """The block's way for the tokens of all sources side by side, (B, p, C); in parts, as many as sources."""
        read = self.instrument.read(block.norm1(tokens), *windows)
        stream = seen = tokens + block.drop_path1(read)
        if not all(source.residual for source in self.sources):
            pieces = [part.split(lengths, dim=1) for part in (stream, tokens, read)]
            rows = list(zip(self.sources, *pieces, strict=True))
            stream = torch.cat([s if source.residual else t for source, s, t, _ in rows], dim=1)
            seen = torch.cat([s if source.residual else r for source, s, _, r in rows], dim=1)
        return (stream + block.drop_path2(block.mlp(block.norm2(seen)))).split(lengths, dim=1)


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
        self.instrument.reading, context.aside = context.store.pop((self, "pair")), True
        try:
            read = block.forward(queries, *args[1:], **kwargs)
        finally:
            self.instrument.reading, context.aside = None, False
        context.store[self.attachment, "queries", self.site.block] = read
