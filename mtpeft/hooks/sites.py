"""Hooks that call a method's module at one site: how it gets its inputs and where its output goes."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Context, Runtime


class SiteHook:
    """Base of hooks with one attachment and one site."""

    def __init__(self, attachment: Attachment, site: Site, runtime: Runtime) -> None:
        """The hook acts whenever `runtime` has a context."""
        self.attachment, self.site, self.runtime = attachment, site, runtime

    def module(self, context: Context, *inputs: torch.Tensor) -> Any:
        """The site's module under the current selection."""
        return self.attachment(self.site.key, context, *inputs)


class OutputHook(SiteHook):
    """Forward hook: the module's output becomes `module(x, y)`."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return output
        x, y = self.site.shown(args[0]), self.site.shown(output)
        return self.site.given_back(self.module(context, x, y))


class RowsHook:
    """Forward hook for sites that are rows of one output, such as q and v of a fused qkv.

    Without autograd the rows are written in place. With it one split and one concatenation serve all sites: in-place
    writes into slices would cost several passes over the whole gradient per site.
    """

    def __init__(self, attachment: Attachment, runtime: Runtime) -> None:
        """`sites` are added as they are installed; their rows do not overlap."""
        self.attachment, self.runtime = attachment, runtime
        self.sites: list[tuple[str, int, int]] = []

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return output
        if not torch.is_grad_enabled():
            for key, start, stop in self.sites:
                rows = output[..., start:stop]
                changed = self.changed(key, context, args[0], rows)
                if changed is not rows:  # else it was added in place
                    output[..., start:stop] = changed
            return output
        cuts = sorted({0, output.shape[-1], *(cut for _, *rows in self.sites for cut in rows)})
        pieces = output.split([stop - start for start, stop in itertools.pairwise(cuts)], dim=-1)
        parts = dict(zip(cuts, pieces, strict=False))
        for key, start, _ in self.sites:
            parts[start] = self.changed(key, context, args[0], parts[start]).to(output.dtype)
        return torch.cat(list(parts.values()), dim=-1)

    def changed(self, key: str, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The input of all rows, and a site's own rows of the output -> its new rows."""
        changed: torch.Tensor = self.attachment(key, context, x, y)
        return changed


class InputHook(SiteHook):
    """Forward pre-hook: the module's first input becomes `module(x, x)`."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return args
        x = self.site.shown(args[0])
        return (self.site.given_back(self.module(context, x, x)), *args[1:])


class ParallelSource(SiteHook):
    """Keeps the input of a branch until the branch ends; a pre-hook or a hook, as the site says."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor | None = None) -> None:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is not None:
            value = output if self.site.source_is_output else args[0]
            if self.site.source_channels_first and value is not None:
                value = value.permute(0, 2, 3, 1)
            context.store[self.attachment, self.site.key, "branch"] = value


class ParallelHook(SiteHook):
    """Forward hook at the end of a branch: its output becomes `module(x, y)` with x the branch's input."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return output
        x, y = context.store.pop((self.attachment, self.site.key, "branch")), self.site.shown(output)
        return self.site.given_back(self.add(context, x.reshape(y.shape), y))

    def add(self, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The branch's input x and output y -> its new output."""
        return self.module(context, x, y)


class PrefixHook(SiteHook):
    """Keys and values in front of a layer's own, called by the instrumented attention."""

    calibrated = False  # whether the method divides its prefix's attention by its own sum (set on installation)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            empty = x.new_zeros(x.shape[0], 0, self.site.dim_out)
            return empty, empty
        return self.module(context, x)


class LogitHook(SiteHook):
    """An addition to the logits of attention, called by the instrumented attention with its input."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """(rows, N, C) -> an additive bias of 1 or as many rows, or None.

        A method sees one row per image: what it adds is the same for all windows of an image.
        """
        context = self.runtime.context
        if context is None:
            return None
        index = context.selection.index
        if index is None:
            return self.module(context, x[:1])
        images = x.unflatten(0, (index.shape[0], -1))
        return self.module(context, images[:, 0]).repeat_interleave(images.shape[1], dim=0)


class TapHook:
    """Collects block outputs (and the first block's input) for a side network, detached."""

    def __init__(self, runtime: Runtime, key: Any, first: bool) -> None:
        """`first`: a pre-hook that starts a new collection."""
        self.runtime, self.key, self.first = runtime, key, first

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor | None = None) -> None:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return
        if self.first:
            context.store[self.key] = []
        value = args[0] if output is None else output
        context.store[self.key].append(value.detach())


class PassHook:
    """Forward hook on a norm behind the pooling: a side network has its own, and its features pass by."""

    def __init__(self, runtime: Runtime) -> None:
        """The hook acts whenever `runtime` has a context."""
        self.runtime = runtime

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        return output if self.runtime.context is None else args[0]


class SideHook(SiteHook):
    """Forward hook on the final norm: the side network's output takes its place, once all taps are there."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        taps = [] if context is None else context.store.get((self.attachment, "taps"), [])
        if context is None or context.aside or len(taps) != self.site.depth + 1:
            return output
        return self.module(context, *taps)
