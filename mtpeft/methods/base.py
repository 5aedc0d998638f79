"""What a method is: a frozen config, one module per site, and claims that tests check.

A method is one file in a folder of `mtpeft/methods/` (the folder is its place in the taxonomy). It holds a config, a
site module and `register`; everything else reads the registry. A site module sees one site and plain tensors: it knows
no task, no sharing and no engine. Its `forward` must be pure: blocks run twice under gradient checkpointing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError, nearest
from mtpeft.registry import Registry

TAXONOMY = ("adapter", "prompt", "prefix", "side", "specification", "reparameter", "unified", "baseline")


@dataclass(frozen=True)
class Properties:
    """What a method claims of itself; the conformance harness checks every claim.

    `no_added_modules`: trains weights the backbone already has, nothing new.
    `structure_preserving`: adds no operation to the network (it changes weights, inputs, tokens, keys or values).
    `inference_efficient`: folds into the backbone's weights, `merge` gives a plain model.
    `memory_efficient`: no gradient flows through the backbone.
    `identity_at_init`: outputs are the backbone's own before the first step.
    """

    no_added_modules: bool = False
    structure_preserving: bool = False
    inference_efficient: bool = False
    memory_efficient: bool = False
    identity_at_init: bool = True


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Fields every method has: `sites` (kinds or groups), `blocks` (indices, None for all; negative from the end), `exclude`."""

    sites: tuple[str, ...] = ()
    blocks: tuple[int, ...] | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sites", "blocks", "exclude"):  # lists come from recipes and JSON
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"{type(self).__name__}.{name} must be a list of names, got the string {value!r}")
            if isinstance(value, Sequence):
                object.__setattr__(self, name, tuple(value))


class SiteModule(nn.Module):
    """One site's weights and maths. Subclass it, or model it: only `forward` is needed, or `factors` in its place.

    `forward(x, y)` gets the site's input and output and returns the new output, for sites that have an output;
    `forward(x)` returns tokens (B, p, C) at `tokens` and `queries` sites, and keys and values, each (B, m, C), at
    `prefix` sites; `forward(*taps)` returns features (B, N, C) at the `side` site. Methods with weights at model level
    (`model_module`) get that module as keyword argument `model`.

    A method of the form y + left @ right may define `factors(x)` instead, which gives left (..., k) and right (k, out),
    and set `factored`: the product is then added to y in one pass over it.
    """

    #: module built once per set of weights and handed to every site: `model_module(config, sites)`
    model_module: ClassVar[type[nn.Module] | None] = None
    #: tokens sites: what leaves a block enters the next one instead of being dropped
    carry: ClassVar[bool] = False
    #: `factors` stands for `forward`
    factored: bool = False

    def __init__(self, config: Any, site: Site) -> None:
        """Subclasses create their weights here from `config` and the site's sizes."""
        super().__init__()

    def factors(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """left (..., k) and right (k, out) of the product added to the output. Only where `factored`."""
        raise NotImplementedError(f"{type(self).__name__}.factors")

    def merged(
        self, weight: torch.Tensor, bias: torch.Tensor | None, **model: nn.Module
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The site's weight (out, in, ...) and bias with this method folded in. Only where the method folds."""
        raise ConfigError(f"{type(self).__name__} does not fold into a weight")

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
    #: trains the backbone's own parameters in place (full fine-tuning)
    own_weights: bool = False

    def build_config(self, options: dict[str, Any]) -> MethodConfig:
        """The config with `options` set; raises `ConfigError` naming an unknown field and the nearest ones."""
        fields = {f.name for f in dataclasses.fields(self.config)}
        for key in options:
            if key not in fields:
                raise ConfigError(f"method {self.name!r} has no option {key!r}.{nearest(key, fields)}")
        return self.config(**options)

    @property
    def folds(self) -> bool:
        """Whether `merge` works: the site module defines `merged`, or there is nothing to merge."""
        return self.module.merged is not SiteModule.merged or self.own_weights or not self.config().sites


METHODS: Registry[MethodSpec] = Registry("method")
M = TypeVar("M", bound=type[SiteModule])


def register(
    name: str,
    config: type[MethodConfig],
    *,
    paper: str,
    taxonomy: str | None = None,
    properties: Properties | None = None,
    own_weights: bool = False,
) -> Callable[[M], M]:
    """Class decorator: registers a `SiteModule` as method `name`.

    `taxonomy` is read off the folder of the file for methods inside the package; others name it.
    """

    def decorate(module: M) -> M:
        place = taxonomy or module.__module__.split(".")[-2]
        if place not in TAXONOMY:
            raise ConfigError(f"method {name!r}: taxonomy {place!r} is none of {', '.join(TAXONOMY)}")
        METHODS.add(name, MethodSpec(name, config, module, place, paper, properties or Properties(), own_weights))
        return module

    return decorate
