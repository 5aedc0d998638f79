"""What a method is: a frozen config, one module per site, and claims that tests check.

A method is one file in a folder of `mtpeft/methods/` (the folder is its place in the taxonomy). It holds a config, a
site module and `register`; everything else reads the registry. A site module sees one site and plain tensors: it knows
no task, no sharing and no engine. Its `forward` must be pure: blocks run twice under gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.backbones.site import CHANGED, Site
from mtpeft.errors import ConfigError
from mtpeft.methods.product import add_product
from mtpeft.options import Length, Name, check_fields, check_options
from mtpeft.registry import Registry

#: kinds or groups of sites, at least one; indices of blocks, at least one; and what a method without sites has
Sites = Annotated[tuple[Name, ...], Length(at_least=1)]
Blocks = Annotated[tuple[int, ...], Length(at_least=1)]
NoSites = Annotated[tuple[Name, ...], Length(at_most=0)]

TAXONOMY = ("adapter", "prompt", "prefix", "side", "specification", "reparameter", "unified", "baseline")


@dataclass(frozen=True)
class Properties:
    """What a method claims of itself; the conformance harness checks every claim.

    `no_added_modules`: trains weights the backbone already has, nothing new.
    `structure_preserving`: adds no operation to the network (it changes weights, inputs, tokens, keys or values).
    `inference_efficient`: folds into the backbone's weights, `merge` gives a plain model.
    `memory_efficient`: no gradient flows through the backbone.
    `head_only`: trains nothing but the tasks' heads. A method that does not claim it must have something to train.
    `identity_at_init`: outputs are the backbone's own before the first step.
    """

    no_added_modules: bool = False
    structure_preserving: bool = False
    inference_efficient: bool = False
    memory_efficient: bool = False
    head_only: bool = False
    identity_at_init: bool = True


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Fields every method has: `sites` (kinds or groups), `blocks` (indices, None for all; negative from the end).

    `exclude` (kinds, groups or paths of modules to leave out).

    A field says in its annotation what it takes (`mtpeft.options`: `rank: Count = 8`); a value it does not take raises
    `ConfigError` when the config is made.
    """

    sites: Sites
    blocks: Blocks | None = None
    exclude: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, type(self).__name__)


class SiteModule(nn.Module):
    """One site's weights and maths. Subclass it, or model it: only `forward` is needed, or `factors` in its place.

    `forward(x, y)` gets the site's input and output and returns the new output, for sites that have an output;
    `forward(x)` returns tokens (B, p, C) at `tokens` and `queries` sites, and keys and values, each (B, m, C), at
    `prefix` sites, and what is added to the logits, (B, heads, N, N), at `position_table` sites; `forward(*taps)` returns
    features (B, N, C) at the `side` site. Methods with weights at model level (`model_module`) get that module as keyword
    argument `model`.

    A method of the form y + left @ right may define `factors(x)` instead, which gives left (..., k) and right (k, out);
    where it also sets `factored`, batches of several tasks add their products in one pass over y.
    """

    #: module built once per set of weights and handed to every site: `model_module(config, sites)`
    model_module: ClassVar[type[nn.Module] | None] = None
    #: tokens sites: what leaves a block enters the next one instead of being dropped
    carry: ClassVar[bool] = False
    #: `factors` stands for `forward` in batches of several tasks too
    factored: bool = False
    #: the name by which folders of Hugging Face PEFT know the method, where they can hold it
    peft_type: ClassVar[str | None] = None
    #: the styles of sites it can serve (see `mtpeft/backbones/site.py`); by default those with an output to change
    styles: ClassVar[tuple[str, ...]] = CHANGED

    def __init__(self, config: Any, site: Site) -> None:
        """Subclasses create their weights here from `config` and the site's sizes."""
        super().__init__()

    def _no_factors(self, x: torch.Tensor, **model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines neither forward nor factors")

    def _sum(self, x: torch.Tensor, y: torch.Tensor, **model: nn.Module) -> torch.Tensor:
        return add_product(y, *self.factors(x, **model))

    #: left (..., k) and right (k, out) of the product added to the output
    factors: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _no_factors
    #: y + left @ right, where a method does not define its own
    forward: Callable[..., Any] = _sum

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The site's weight (out, in, ...) and bias with this method folded in. Only where the method folds."""
        raise ConfigError(f"{type(self).__name__} does not fold into a weight")

    @staticmethod
    def chosen(config: Any, sites: Sequence[Site], every: Sequence[Site]) -> Sequence[Site]:
        """The sites the method takes where the backbone's structure decides, of those asked for and of `every` it has.

        By default those asked for.
        """
        return sites

    @staticmethod
    def unsupported(config: Any, sites: Sequence[Site]) -> str | None:
        """Why these sites cannot be served, beyond being there (say, widths that differ), or None."""
        return None

    @staticmethod
    def feature_dim(config: Any, dim: int, sites: Sequence[Site]) -> int:
        """Width of pooled features under this method; `dim` is the width without it."""
        return dim

    @staticmethod
    def combine(pooled: torch.Tensor, queries: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pooled features (B, C) and what the query tokens read, one (B, T, C) per block -> new pooled features."""
        return pooled


@dataclass(eq=False)
class Taps:
    """What a task stream sees of one block of the shared pass.

    `entry` and `output`: the block's input and output. By kind of site: `x` its input, `y` its output before the
    method acted, `modules` the shared site modules. `unwindow` brings rows of attention windows to the block's layout.
    """

    entry: torch.Tensor
    output: torch.Tensor
    x: dict[str, torch.Tensor]
    y: dict[str, torch.Tensor]
    modules: dict[str, Any]
    unwindow: Callable[[torch.Tensor], torch.Tensor]


class TaskStream(nn.Module):
    """One task's own weights at one block of a method whose other weights all tasks share.

    The shared pass alone feeds the next block; `forward(taps)` gives what the task's features have more than the
    shared output of this block. Weights of several tasks are stacked and run in one call, so it must be plain torch.
    """

    #: kinds of sites whose input, output and shared module the stream reads
    taps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, block: nn.Module, sites: Mapping[str, Site]) -> None:
        """Subclasses create one task's weights for `block`; `sites` are its sites of the kinds in `taps`."""
        super().__init__()

    @staticmethod
    def blocks(config: Any, ends: Sequence[int], depth: int) -> Sequence[int]:
        """The blocks that have task weights, `ends` among them: the last of every stage, by default those alone.

        The offsets of a stage's blocks add up.
        """
        return ends

    @staticmethod
    def unsupported(config: Any, block: Any, anatomy: Any) -> str | None:
        """Why this block cannot have a stream, or None."""
        return None


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in float32, or in its own type where that is wider: the precision weights are merged in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@dataclass(frozen=True)
class MethodSpec:
    """A registered method."""

    name: str
    config: type[MethodConfig]
    module: type[SiteModule]
    taxonomy: str
    paper: str
    properties: Properties
    #: which of the backbone's own parameters are trained in place, by name: `owned(config, anatomy)`
    owned: Callable[[Any, Any], Sequence[str]] | None = None
    #: weights of each task beside the shared ones
    stream: type[TaskStream] | None = None

    @property
    def own_weights(self) -> bool:
        """Whether some of the backbone's own parameters are trained in place."""
        return self.owned is not None

    @property
    def sharings(self) -> tuple[str, ...]:
        """The plain weight sources the method works with, its default first."""
        if self.stream is not None:
            return ("split",)
        return ("shared",) if self.own_weights else ("per_task", "shared")

    def build_config(self, options: dict[str, Any]) -> MethodConfig:
        """The config with `options` set; raises `ConfigError` for an unknown one, or a value that one does not take."""
        return self.config(**check_options(f"method {self.name!r}", self.config, options))

    @property
    def siteless(self) -> bool:
        """Whether the method acts at no site: it trains the backbone's own weights, or nothing but heads."""
        return not self.build_config({}).sites

    @property
    def folds(self) -> bool:
        """Whether `merge` works: the site module defines `merged`, or there is nothing to merge."""
        return self.stream is None and (
            self.module.merged is not SiteModule.merged or self.own_weights or self.siteless
        )


METHODS: Registry[MethodSpec] = Registry("method")
M = TypeVar("M", bound=type[SiteModule])


def register(
    name: str,
    config: type[MethodConfig],
    *,
    paper: str,
    taxonomy: str | None = None,
    properties: Properties | None = None,
    owned: Callable[[Any, Any], Sequence[str]] | None = None,
    stream: type[TaskStream] | None = None,
) -> Callable[[M], M]:
    """Class decorator: registers a `SiteModule` as method `name`.

    `taxonomy` is read off the folder of the file for methods inside the package; others name it. `owned` names the
    backbone's own parameters the method trains in place, `stream` holds a task's own weights beside the shared ones.
    """

    def decorate(module: M) -> M:
        place = taxonomy or module.__module__.split(".")[-2]
        if place not in TAXONOMY:
            raise ConfigError(f"method {name!r}: taxonomy {place!r} is none of {', '.join(TAXONOMY)}")
        claims = properties or Properties()
        METHODS.add(name, MethodSpec(name, config, module, place, paper, claims, owned, stream))
        return module

    return decorate
