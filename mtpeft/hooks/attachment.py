"""An attachment: one method on one backbone, its sites, and the source of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.blocks import parts_of
from mtpeft.backbones.site import Site, Stage
from mtpeft.errors import ConfigError
from mtpeft.hooks.runtime import Context
from mtpeft.methods.base import MethodConfig
from mtpeft.methods.spec import MethodSpec
from mtpeft.options import check_options
from mtpeft.sharing import SHARINGS, BankFactory, Sharing
from mtpeft.sharing.bank import Tensors
from mtpeft.sharing.per_task import PerTask


class Prompts(Protocol):
    """What is known of the prompts that methods put into a block (`mtpeft.hooks.tokens`)."""

    inside: bool

    def own(self, tokens: torch.Tensor) -> torch.Tensor:
        """The block's own tokens."""

    def put_back(self, own: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What became of them, with the prompts as they are."""


class Attachment(nn.Module):
    """One method attached to one backbone.

    Nothing is changed on the backbone here; `mtpeft.hooks.installation.Installation` does that once all attachments are built.
    Raises `ConfigError` when the backbone lacks a site the method needs.
    """

    def __init__(
        self,
        spec: MethodSpec,
        config: MethodConfig,
        anatomy: Anatomy,
        sharing: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`sharing` is the name of a weight source, `options` what its constructor takes."""
        super().__init__()
        if spec.own_weights and spec.stream is None and sharing != "shared":
            raise ConfigError(
                f"method {spec.name!r} trains the backbone's own weights, which all tasks share: sharing='shared'"
            )
        if (spec.stream is not None) != (sharing == "split"):
            what = "has shared weights and some of each task's own" if spec.stream else "has no task stream"
            raise ConfigError(f"method {spec.name!r} {what}: sharing={spec.sharings[0]!r}, not {sharing!r}")
        self.spec, self.config, self.sharing_name = spec, config, sharing
        self.sharing_options = check_sharing(sharing, options or {})
        self.selected: list[Site] = select_sites(spec, config, anatomy)
        blocks = stream_blocks(spec, config, anatomy)
        if left_out := _left_out(spec, self.selected, blocks):
            raise refusal([spec.name], anatomy.backbone, left_out)
        self.constants = spec.module.constants(config, self.selected)
        self.factory = BankFactory(spec, config, self.selected, blocks, self.constants, anatomy.feature_dim)
        self.running = anatomy.running
        self.asks = spec.module.needs_fit(config)
        self.sequence = run_sequence(self.selected, anatomy) if spec.module.stateful else []
        self.prompts: Mapping[int, Prompts] = {}  # by block, once all methods are installed
        self.taps = {site.key for site in self.factory.tapped}
        self.weights: Sharing = SHARINGS.get(sharing)(self.factory, **self.sharing_options)

    def forward(self, key: str, context: Context, *inputs: torch.Tensor) -> Tensors:
        """Call site `key` with the weights of the forward's selection."""
        return self._handed_on(key, context, inputs) if self.sequence else self._call(key, context, *inputs)

    def _handed_on(self, key: str, context: Context, inputs: tuple[torch.Tensor, ...]) -> Tensors:
        """Call a site with the state that the nearest site before it left, and keep the one it leaves.

        Kept by site: checkpointing runs blocks again, backwards. Prompts of other methods, and tokens
        beside the stream, pass by.
        """
        place = next(place for place, site in enumerate(self.sequence) if site.key == key)
        site, left = self.sequence[place], context.store.setdefault((self, "states"), {})
        if place == 0 and context.runs_once:
            left.clear()  # a direct call's context lives on
        before = next((s for s in reversed(self.sequence[:place]) if s.key in left), None)
        outside = place and before is None  # a norm called from outside, before anything ran
        if outside or context.aside:
            return inputs if site.style == "scales" else inputs[-1]
        prompts = None if site.block is None else self.prompts.get(site.block)
        within = prompts if prompts is not None and prompts.inside else None
        own = inputs if within is None else tuple(within.own(tokens) for tokens in inputs)
        made = self._call(key, context, *own, *(left[before.key] if before else ()))
        if site.style == "scales":
            return made
        output, *state = made
        left[key] = tuple(state)
        if context.forgets and before is not None and before.block is not None and site.block is not None:
            del left[before.key]
        return output if within is None else within.put_back(output, inputs[-1])

    def _call(self, key: str, context: Context, *inputs: torch.Tensor) -> Tensors:
        selection = context.selection
        if self.asks and not context.trial:
            self.check_fitted(selection.tasks)
        if key in self.taps and not context.aside:
            context.store[self, key] = inputs
        cache = context.cache if context.runs_once else {}
        if self in context.prepared:
            cache[self.weights] = context.prepared[self]
        if selection.rows is not None:
            cache["rows"] = selection.rows
        self.running.grid = context.grid
        try:
            return self.weights.call(key, selection.tasks, selection.index, inputs, cache)
        finally:
            self.running.grid = None

    def needs_fit(self, task: str) -> bool:
        """Whether the weights of the task have to see its data before they are used."""
        return self.asks and not self.weights.bank(task).fitted

    def check_fitted(self, tasks: Sequence[str]) -> None:
        """Raise `ConfigError` for a task whose data it has yet to see."""
        for task in tasks:
            if self.needs_fit(task):
                raise ConfigError(
                    f"task {task!r}: method {self.spec.name!r} has to see its training data before it is used: "
                    f"manager.fit({task!r}, loader)"
                )

    def to_per_task(self, tasks: Sequence[str]) -> None:
        """Replace generated weights by plain ones of each task, with the values they have now."""
        plain = PerTask(self.factory)
        for task in tasks:
            plain.add_task(task, self.weights.bank(task))
        self.weights, self.sharing_name, self.sharing_options = plain, "per_task", {}

    def feature_dim(self, dim: int) -> int:
        """Width of pooled features under this method."""
        return self.spec.module.feature_dim(self.config, dim, self.selected)

    def head_scales(self, stages: Sequence[Stage]) -> Sequence[Stage]:
        """The maps heads of several scales get under this method."""
        return self.spec.module.head_scales(self.config, stages)

    def __repr__(self) -> str:
        kinds = sorted({site.kind for site in self.selected})
        return (
            f"Attachment({self.config}, sharing={self.sharing_name!r}, sites={len(self.selected)} x {'/'.join(kinds)})"
        )


def run_sequence(sites: Sequence[Site], anatomy: Anatomy) -> list[Site]:
    """Sites in the order a forward reaches them; those of one block in the order the anatomy lists them."""
    blocks = [anatomy.calls[anatomy.backbone.get_submodule(path)].order for path in anatomy.blocks]

    def place(site: Site) -> tuple[int, int, bool]:
        if site.block is not None:
            return site.block, 0, False
        order = anatomy.calls[site.module].order
        return (-1 if order < blocks[0] else len(blocks)), order, site.style == "scales"

    return sorted(sites, key=place)


def stream_blocks(spec: MethodSpec, config: MethodConfig, anatomy: Anatomy) -> dict[int, nn.Module]:
    """The blocks that have weights of each task, for methods with a task stream."""
    if spec.stream is None:
        return {}
    ends = [stage.block for stage in anatomy.stages]
    chosen = spec.stream.blocks(config, ends, len(anatomy.blocks))
    blocks = {block: anatomy.backbone.get_submodule(anatomy.blocks[block]) for block in chosen}
    for block in blocks.values():
        parts = parts_of(block)
        if parts is None or not parts.alone:
            reason: str | None = "its task streams need blocks of one attention and one MLP, one after the other"
        elif not anatomy.stage_maps:
            reason = "its task streams leave the model at the ends of stages, and these hold no maps"
        else:
            reason = spec.stream.unsupported(config, block, anatomy)
        if reason is not None:
            raise refusal([spec.name], anatomy.backbone, reason)
    return blocks


def _left_out(spec: MethodSpec, selected: Sequence[Site], blocks: Iterable[int]) -> str | None:
    """What is missing where task streams leave the shared pass, which `blocks` or `exclude` took away."""
    there = {(site.kind, site.block) for site in selected}
    needed = [(kind, block) for block in blocks for kind in (spec.stream.taps if spec.stream else ())]
    missing = [pair for pair in needed if pair not in there]
    if not missing:
        return None
    kind, block = missing[0]
    return (
        f"each task's own weights act on {kind!r} of block {block}, which blocks= or exclude= leaves out; keep the blocks "
        f"{', '.join(str(number) for number in dict.fromkeys(blocks))}"
    )


def check_sharing(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a weight source, as it declares them; raises `UnknownNameError` or `ConfigError`."""
    return check_options(f"sharing {name!r}", SHARINGS.get(name), options, given=("factory",))


def refusal(names: Sequence[str], backbone: nn.Module, reason: str) -> ConfigError:
    """The one line that says why methods cannot be attached to a backbone."""
    methods = " and ".join(repr(name) for name in dict.fromkeys(names))
    return ConfigError(f"method {methods} cannot be attached to {type(backbone).__name__}: {' '.join(reason.split())}")


def select_sites(spec: MethodSpec, config: MethodConfig, anatomy: Anatomy) -> list[Site]:
    """The sites of a method on a backbone; an error names the method and what the backbone lacks."""
    try:
        sites = list(
            spec.module.chosen(config, anatomy.select(config.sites, config.blocks, config.exclude), anatomy.sites)
        )
        if not (sites or spec.properties.head_only or (spec.owned and spec.owned(config, anatomy))):
            chosen = ", ".join(f"{name}={getattr(config, name)!r}" for name in ("sites", "blocks", "exclude"))
            raise ConfigError(f"it would train nothing: no site is left by {chosen}")
        foreign = sorted({site.kind for site in sites if site.style not in spec.module.styles})
        reason = f"it cannot act at the sites {', '.join(foreign)}" if foreign else None
        reason = reason or spec.module.unsupported(config, sites)
    except ConfigError as error:
        reason = str(error)
    if reason is not None:
        raise refusal([spec.name], anatomy.backbone, reason)
    return sites
