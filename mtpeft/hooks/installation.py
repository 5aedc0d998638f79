"""Installation of all hooks of a manager on its backbone, and their removal.

Every hook is an object that holds its attachment, site and runtime as attributes, so that deep copies and pickles of a
manager are independent of the original. A hook without a selected task leaves everything as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.attention import InstrumentedAttention, equals_native
from mtpeft.backbones.attention_families import has_positions
from mtpeft.backbones.site import FRAME_STYLES, NEEDS, Site
from mtpeft.hooks.attachment import Attachment, refusal
from mtpeft.hooks.frames import FramesBranchHook, FramesHook, FramesRowsHook, TemporalHook
from mtpeft.hooks.grid import BlockGridHook, StemGridHook
from mtpeft.hooks.runtime import Runtime
from mtpeft.hooks.sites import (
    InputHook,
    LogitHook,
    OutputHook,
    ParallelHook,
    ParallelSource,
    PassHook,
    PrefixHook,
    RowsHook,
    SideHook,
    SiteHook,
    TapHook,
)
from mtpeft.hooks.streams import StageHook, StreamHook
from mtpeft.hooks.tokens import QueryHook, TokenHook, TokenSource, WindowTokenHook


def carries_hooks(backbone: nn.Module) -> bool:
    """Whether some manager's hooks are on the backbone."""
    for module in backbone.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            if isinstance(getattr(getattr(hook, "__self__", hook), "runtime", None), Runtime):
                return True
        if isinstance(vars(module).get("forward"), (InstrumentedAttention, TokenHook)):
            return True
    return False


def _turn(site: Site) -> int:
    """Before a block, methods for clips see its tokens before prompts are among them; keys and values when all is added."""
    return 2 if site.style == "frames_output" else 0 if site.style in FRAME_STYLES else 1


class Installation:
    """All hooks of a manager on its backbone; `remove` takes every trace away."""

    def __init__(self, anatomy: Anatomy, attachments: Sequence[Attachment], runtime: Runtime) -> None:
        """Install the hooks of all attachments, in order; an error leaves none behind.

        Raises `ConfigError` where a method has to act inside an attention that computes something else than the forward
        it would be replaced by.
        """
        self.anatomy, self.attachments, self.runtime = anatomy, list(attachments), runtime
        self.handles: list[Any] = []
        self.instruments: dict[nn.Module, InstrumentedAttention] = {}
        try:
            self._install()
            for attn in self.instruments:
                self._compare(attn)
        except Exception:
            self.remove()
            raise

    def _install(self) -> None:
        self.handles, self.instruments = [], {}
        self.token_hooks: dict[int, TokenHook | WindowTokenHook] = {}
        self.rows_hooks: dict[tuple[Attachment, nn.Module, type[RowsHook]], RowsHook] = {}
        self.temporal_hooks: dict[tuple[Attachment, int | None], TemporalHook] = {}
        self._grids()
        makers = [a.spec.name for a in self.attachments if any(site.style == "scales" for site in a.selected)]
        if len(makers) > 1:
            raise refusal(makers, self.anatomy.backbone, "each makes the maps that heads of several scales read")
        for turn in (0, 1, 2):
            for attachment in self.attachments:
                for site in attachment.selected:
                    if _turn(site) == turn:
                        getattr(self, f"_{site.style}")(attachment, site)
        for position, stage in enumerate(self.anatomy.stages):
            self._hook(self._block(stage.block), StageHook(self.runtime, position))
        for attachment in self.attachments:
            attachment.prompts = {b: hook for b, hook in self.token_hooks.items() if isinstance(hook, TokenHook)}
            self._streams(attachment)

    def remove(self) -> None:
        """Remove hooks and give every attention module and block its own forward back."""
        for handle in self.handles:
            handle.remove()
        for attn in self.instruments:
            del attn.forward
        for hook in self.token_hooks.values():
            if isinstance(hook, TokenHook):
                del hook.block.forward
        self.handles, self.instruments, self.token_hooks, self.rows_hooks = [], {}, {}, {}
        self.temporal_hooks = {}

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
            instrumented = InstrumentedAttention(attn, self.anatomy.prefix_tokens)
            self._replace_forward(attn, instrumented)
            self.instruments[attn] = instrumented
        return self.instruments[attn]

    def _replace_forward(self, module: nn.Module, forward: Any) -> None:
        """Call `forward` in the place of the one of the module's class; refused where something else has replaced that."""
        if "forward" in vars(module):
            reason = f"something has replaced the forward of {type(module).__name__}, as the method does: attach first"
            raise refusal([attachment.spec.name for attachment in self.attachments], self.anatomy.backbone, reason)
        module.forward = forward

    def _compare(self, attn: nn.Module) -> None:
        """Refuse an attention whose own forward gives something else than its instrumented one."""
        call = self.anatomy.calls[attn]
        modes = [(module, module.training) for module in attn.modules()]
        try:
            attn.eval()
            same = equals_native(attn, self.anatomy.prefix_tokens, call.input_shape, call.rest, call.named)
        finally:
            for module, mode in modes:
                module.training = mode
        if not same:
            path = next(path for path, module in self.anatomy.backbone.named_modules() if module is attn)
            names = [a.spec.name for a in self.attachments if any(site.attention is attn for site in a.selected)]
            reason = (
                f"it has to act inside attention, and {path} ({type(attn).__name__}) computes it in a way of its own"
            )
            raise refusal(names, self.anatomy.backbone, reason)

    def _hook(self, module: nn.Module, hook: Callable[..., Any], pre: bool = False, kwargs: bool = False) -> None:
        add = module.register_forward_pre_hook if pre else module.register_forward_hook
        self.handles.append(add(hook, with_kwargs=kwargs))

    def _grids(self) -> None:
        """Before all others: they see the map of the module they are on."""
        self._hook(self.anatomy.projection, StemGridHook(self.runtime))
        for path in self.anatomy.blocks:
            block = self.anatomy.backbone.get_submodule(path)
            if self.anatomy.block_maps and self.anatomy.calls[block].grid is not None:
                self._hook(block, BlockGridHook(self.runtime, self.anatomy.channels_first), pre=True)

    def _output(self, attachment: Attachment, site: Site) -> None:
        if site.rows is None:
            self._on_output(site, OutputHook(attachment, site, self.runtime))
        else:
            self._rows(attachment, site, RowsHook)

    def _frames_output(self, attachment: Attachment, site: Site) -> None:
        self._rows(attachment, site, FramesRowsHook)

    def _rows(self, attachment: Attachment, site: Site, form: type[RowsHook]) -> None:
        """One hook for all rows of a module that a method changes in one way."""
        assert site.rows is not None
        hook = self.rows_hooks.get((attachment, site.module, form))
        if hook is None:
            hook = self.rows_hooks[attachment, site.module, form] = form(attachment, self.runtime)
            self._on_output(site, hook)
        hook.sites.append((site.key, *site.rows))

    def _on_output(self, site: Site, hook: OutputHook | RowsHook) -> None:
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

    def _frames(self, attachment: Attachment, site: Site) -> None:
        self._hook(site.module, FramesHook(attachment, site, self.runtime), pre=True)

    def _frames_branch(self, attachment: Attachment, site: Site) -> None:
        assert site.source is not None
        self._hook(site.source, ParallelSource(attachment, site, self.runtime), pre=True)
        self._hook(site.module, FramesBranchHook(attachment, site, self.runtime))

    def _temporal(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        hook = TemporalHook(attachment, site, self.runtime, self.instrument(site.attention))
        self.temporal_hooks[attachment, site.block] = hook
        self._hook(site.module, hook, pre=True)

    def _temporal_in(self, attachment: Attachment, site: Site) -> None:
        self.temporal_hooks[attachment, site.block].entry = SiteHook(attachment, site, self.runtime)

    def _prefix(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        hook = PrefixHook(attachment, site, self.runtime)
        hook.calibrated = bool(getattr(attachment.config, "calibrated", False))
        self.instrument(site.attention).prefix_sources.append(hook)

    def _logits(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        self.instrument(site.attention).logit_sources.append(LogitHook(attachment, site, self.runtime))

    def _tokens(self, attachment: Attachment, site: Site) -> None:
        assert site.block is not None
        module, last = attachment.spec.module, site.depth - 1
        carry, replaces = module.carry, module.replaces or module.lifts
        pool = bool(getattr(attachment.config, "pool_prompts", False))
        keep = carry and site.block < last
        merging = site.merging if module.replaces else None
        origin = 0 if replaces else site.block  # what is replaced is one row of prompts
        tapped = set(attachment.factory.stream_blocks) if attachment.factory.of_tasks else set()

        def add(key: str | None, block: int, keep: bool, merging: Any) -> None:
            found = pool and block == last, origin, module.lifts, module.token_residual, block in tapped
            source = TokenSource(attachment, key, block, keep, merging, *found)
            self._token_hook(attachment, block).sources.append(source)

        add(site.key, site.block, keep, merging)
        if carry:
            own = [s.block for s in attachment.selected if replaces and s.style == "tokens" and s.block is not None]
            end = min((block for block in own if block > site.block), default=site.depth)
            for block in range(site.block + 1, end):
                add(None, block, block < last, self._tokens_site(attachment, block).merging)

    def _token_hook(self, attachment: Attachment, index: int) -> TokenHook | WindowTokenHook:
        if index not in self.token_hooks:
            block: Any = self._block(index)
            attn = self._tokens_site(attachment, index).attention
            hook: TokenHook | WindowTokenHook
            if attn is not None and self.anatomy.families[attn] == "window":
                hook = WindowTokenHook(self.runtime, self.instrument(attn))
            else:
                positions = attn is not None and has_positions(attn)
                instrument = self.instrument(attn) if attn is not None and positions else None
                hook = TokenHook(self.runtime, block, self.anatomy.prefix_tokens, instrument)
                self._replace_forward(block, hook)
            self.token_hooks[index] = hook
            if isinstance(hook, WindowTokenHook):
                self._hook(block, hook.insert, pre=True, kwargs=True)
                self._hook(block, hook.remove)
        return self.token_hooks[index]

    def _tokens_site(self, attachment: Attachment, block: int) -> Site:
        """Where tokens enter a block; a block that has no such site is refused."""
        for site in self.anatomy.sites:
            if site.kind == "tokens" and site.block == block:
                return site
        reason = f"it needs {NEEDS['tokens']}, which block {block} does not have"
        raise refusal([attachment.spec.name], self.anatomy.backbone, reason)

    def _queries(self, attachment: Attachment, site: Site) -> None:
        assert site.attention is not None
        instrument = self.instrument(site.attention)
        self._hook(site.module, QueryHook(attachment, site, self.runtime, instrument), kwargs=True)

    def _features(self, attachment: Attachment, site: Site) -> None:
        """The output of the module that gives the final features, whatever its input."""
        self._hook(site.module, OutputHook(attachment, site, self.runtime))

    def _scales(self, attachment: Attachment, site: Site) -> None:
        """Nothing on the backbone: the maps of all stages are there when it has run (`mtpeft.manager.features`)."""

    def _block(self, index: int) -> nn.Module:
        return self.anatomy.backbone.get_submodule(self.anatomy.blocks[index])

    def _streams(self, attachment: Attachment) -> None:
        begin, blocks = 0, attachment.factory.stream_blocks
        for position, stage in enumerate(self.anatomy.stages):
            siblings = tuple(b for b in blocks if begin <= b <= stage.block)
            for block in siblings:
                last = stage is self.anatomy.stages[-1]
                hook = StreamHook(attachment, self.runtime, block, position, siblings, last)
                self._hook(self._block(block), hook)
            begin = stage.block + 1

    def _side(self, attachment: Attachment, site: Site) -> None:
        key = (attachment, "taps")
        for index in range(len(self.anatomy.blocks)):
            block = self._block(index)
            if index == 0:
                self._hook(block, TapHook(self.runtime, key, first=True), pre=True)
            self._hook(block, TapHook(self.runtime, key, first=False))
        self._hook(site.module, SideHook(attachment, site, self.runtime))
        norm = getattr(self.anatomy.backbone, "fc_norm", None)
        if norm in self.anatomy.calls:
            self._hook(norm, PassHook(self.runtime))
