"""The registry of methods: what is known of one beside its maths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mtpeft.backbones.site import FRAME_STYLES
from mtpeft.errors import ConfigError
from mtpeft.methods.base import MethodConfig, SiteModule, TaskStream
from mtpeft.methods.formula import SIZES, names_in
from mtpeft.options import check_options
from mtpeft.registry import Registry

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
    #: kind of site -> the option with its size in every block (0 for none), where a smaller size is the leading rows of a larger
    elastic: Mapping[str, str] | None = None
    #: number of weights for one task on a plain ViT, in its sizes and the options
    weights: str | None = None

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
    def for_clips(self) -> bool:
        """Whether the method sees the frames of a clip together; every other sees each alone."""
        return not set(FRAME_STYLES).isdisjoint(self.module.styles)

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
    elastic: Mapping[str, str] | None = None,
    weights: str | None = None,
) -> Callable[[M], M]:
    """Class decorator: registers a `SiteModule` as method `name`.

    `taxonomy` is read off the folder of the file for methods inside the package; others name it. `owned` names the
    backbone's own parameters the method trains in place, `stream` holds a task's own weights beside the shared ones.
    `elastic` says which option sizes which kind of site, for methods whose sizes can be searched (`mtpeft.search`).
    `weights` is how many weights it has for one task on a plain ViT with the default options, heads apart: in L blocks, the
    width d, the width m of the MLP, n patches of p x p pixels, h heads, and the options by name ("L * d * num_tokens",
    "2 * L * d * r where r = d // reduction").
    """

    def decorate(module: M) -> M:
        place = taxonomy or module.__module__.split(".")[-2]
        if place not in TAXONOMY:
            raise ConfigError(f"method {name!r}: taxonomy {place!r} is none of {', '.join(TAXONOMY)}")
        unknown = names_in(weights or "0") - {*SIZES, *(option.name for option in fields(config))}
        if unknown:
            known = ", ".join((*SIZES, "and the options"))
            raise ConfigError(f"method {name!r}: its formula names {', '.join(sorted(unknown))}; it may name {known}")
        claims = properties or Properties()
        METHODS.add(name, MethodSpec(name, config, module, place, paper, claims, owned, stream, elastic, weights))
        return module

    return decorate
