"""Hooks: how a site module gets its inputs and where its output goes.

Every hook is an object that holds its attachment, site and runtime as attributes, so that deep copies and pickles of a
manager are independent of the original. A hook without a selected task leaves everything as it is.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.attachment import Attachment
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention, has_positions
from mtpeft.backbones.site import Site
from mtpeft.runtime import Context, Runtime
from mtpeft.token_hooks import QueryHook, TokenHook, TokenSource


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
        return output if context is None else self.module(context, args[0], output)


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
                changed = self.attachment(key, context, args[0], rows)
                if changed is not rows:  # else it was added in place
                    output[..., start:stop] = changed
            return output
        cuts = sorted({0, output.shape[-1], *(cut for _, *rows in self.sites for cut in rows)})
        pieces = output.split([stop - start for start, stop in itertools.pairwise(cuts)], dim=-1)
        parts = dict(zip(cuts, pieces, strict=False))
        for key, start, _ in self.sites:
            parts[start] = self.attachment(key, context, args[0], parts[start]).to(output.dtype)
        return torch.cat(list(parts.values()), dim=-1)


class InputHook(SiteHook):
    """Forward pre-hook: the module's first input becomes `module(x, x)`."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Called by the module this hook is on."""
        context = self.runtime.context
        return args if context is None else (self.module(context, args[0], args[0]), *args[1:])


class ParallelSource(SiteHook):
    """Keeps the input of a branch until the branch ends; a pre-hook or a hook, as the site says."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor | None = None) -> None:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is not None:
            value = output if self.site.source_is_output else args[0]
            context.store[self.attachment, self.site.key] = value


class ParallelHook(SiteHook):
    """Forward hook at the end of a branch: its output becomes `module(x, y)` with x the branch's input."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        if context is None:
            return output
        x = context.store.pop((self.attachment, self.site.key))
        return self.module(context, x.reshape(output.shape), output)


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


class SideHook(SiteHook):
    """Forward hook on the final norm: the side network's output takes its place, once all taps are there."""

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Called by the module this hook is on."""
        context = self.runtime.context
        taps = [] if context is None else context.store.get((self.attachment, "taps"), [])
        if context is None or len(taps) != self.site.depth + 1:
            return output
        return self.module(context, *taps)


def carries_hooks(backbone: nn.Module) -> bool:
    """Whether some manager's hooks are on the backbone."""
    for module in backbone.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if isinstance(getattr(getattr(hook, "__self__", hook), "runtime", None), Runtime):
                return True
        if isinstance(vars(module).get("forward"), InstrumentedAttention):
            return True
    return False


class Installation:
    """All hooks of a manager on its backbone; `remove` takes every trace away."""

    def __init__(self, anatomy: Anatomy, attachments: Sequence[Attachment], runtime: Runtime) -> None:
        """Install the hooks of all attachments, in order."""
        self.anatomy, self.attachments, self.runtime = anatomy, list(attachments), runtime
        self._install()

    def _install(self) -> None:
        self.handles: list[Any] = []
        self.instruments: dict[nn.Module, InstrumentedAttention] = {}
        self.token_hooks: dict[int, TokenHook] = {}
        self.rows_hooks: dict[tuple[Attachment, nn.Module], RowsHook] = {}
        for attachment in self.attachments:
            for site in attachment.selected:
                getattr(self, f"_{site.style}")(attachment, site)

    def remove(self) -> None:
        """Remove hooks and give every attention module its own forward back."""
        for handle in self.handles:
            handle.remove()
        for attn in self.instruments:
            del attn.forward
        self.handles, self.instruments, self.token_hooks, self.rows_hooks = [], {}, {}, {}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The backbone without any hook, for the length of a `with`."""
        self.remove()
        try:
            yield
        finally:
            self._install()

    def instrument(self, attn: nn.Module) -> InstrumentedAttention:
        """The instrumented forward of `attn`, installed on first use."""
        if attn not in self.instruments:
            self.instruments[attn] = InstrumentedAttention(attn, self.anatomy.prefix_tokens)
            attn.forward = self.instruments[attn]
        return self.instruments[attn]

    def _hook(self, module: nn.Module, hook: Callable[..., Any], pre: bool = False, kwargs: bool = False) -> None:
        add = module.register_forward_pre_hook if pre else module.register_forward_hook
        self.handles.append(add(hook, with_kwargs=kwargs))

    def _output(self, attachment: Attachment, site: Site) -> None:
        hook: OutputHook | RowsHook
        if site.rows is None:
            hook = OutputHook(attachment, site, self.runtime)
        else:
            known = (attachment, site.module) in self.rows_hooks
            hook = self.rows_hooks.setdefault((attachment, site.module), RowsHook(attachment, self.runtime))
            hook.sites.append((site.key, *site.rows))
            if known:
                return
        if site.bypassed and site.attention is not None:
            self.instrument(site.attention).projection_hooks.append(hook)
        else:
            self._hook(site.module, hook)

    def _input(self, attachment: Attachment, site: Site) -> None:
        self._hook(site.module, InputHook(attachment, site, self.runtime), pre=True)

    def _parallel(self, attachment: Attachment, site: Site) -> None:
        assert site.source is not None
        self._hook(site.source, ParallelSource(attachment, site, self.runtime), pre=not site.source_is_output)
        self._hook(site.module, ParallelHook(attachment, site, self.runtime))

    def _prefix(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        hook = PrefixHook(attachment, site, self.runtime)
        hook.calibrated = bool(getattr(attachment.config, "calibrated", False))
        self.instrument(site.attention).prefix_sources.append(hook)

    def _tokens(self, attachment: Attachment, site: Site) -> None:
        assert site.block is not None
        carry = attachment.spec.module.carry
        self._token_hook(site.block).sources.append(TokenSource(attachment, site.key, site.block, keep=carry))
        if carry:
            for block in range(site.block + 1, site.depth):
                self._token_hook(block).sources.append(TokenSource(attachment, None, block, keep=True))

    def _token_hook(self, index: int) -> TokenHook:
        if index not in self.token_hooks:
            block: Any = self.anatomy.backbone.get_submodule(self.anatomy.blocks[index])
            instrument = self.instrument(block.attn) if has_positions(block.attn) else None
            hook = self.token_hooks[index] = TokenHook(self.runtime, self.anatomy.prefix_tokens, instrument)
            self._hook(block, hook.insert, pre=True, kwargs=True)
            self._hook(block, hook.remove)
        return self.token_hooks[index]

    def _queries(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        instrument = self.instrument(site.attention)
        instrument.recording = True
        self._hook(site.module, QueryHook(attachment, site, self.runtime, instrument), kwargs=True)

    def _side(self, attachment: Attachment, site: Site) -> None:
        key = (attachment, "taps")
        for index, path in enumerate(self.anatomy.blocks):
            block = self.anatomy.backbone.get_submodule(path)
            if index == 0:
                self._hook(block, TapHook(self.runtime, key, first=True), pre=True)
            self._hook(block, TapHook(self.runtime, key, first=False))
        self._hook(site.module, SideHook(attachment, site, self.runtime))
