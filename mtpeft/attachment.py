"""An attachment: one method on one backbone, its sites, and the source of its weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.methods.base import MethodConfig, MethodSpec
from mtpeft.runtime import Context
from mtpeft.sharing import SHARINGS, Bank
from mtpeft.sharing.bank import Tensors


class Attachment(nn.Module):
    """One method attached to one backbone.

    Nothing is changed on the backbone here; `mtpeft.hooks.install` does that once all attachments have been built.
    Raises `ConfigError` when the backbone lacks a site the method needs.
    """

    def __init__(self, spec: MethodSpec, config: MethodConfig, anatomy: Anatomy, sharing: str) -> None:
        """`sharing` is the name of a weight source."""
        super().__init__()
        if spec.own_weights and sharing != "shared":
            raise ConfigError(
                f"method {spec.name!r} trains the backbone's own weights, which all tasks share: sharing='shared'"
            )
        self.spec, self.config, self.sharing_name = spec, config, sharing
        self.selected: list[Site] = select_sites(spec, config, anatomy)
        self.weights = SHARINGS.get(sharing)(partial(Bank, spec, config, self.selected))

    def forward(self, key: str, context: Context, *inputs: torch.Tensor) -> Tensors:
        """Call site `key` with the weights of the forward's selection."""
        selection = context.selection
        cache = context.store if context.runs_once else {}
        return self.weights.call(key, selection.tasks, selection.index, inputs, cache)

    def feature_dim(self, dim: int) -> int:
        """Width of pooled features under this method."""
        return self.spec.module.feature_dim(self.config, dim, self.selected)

    def __repr__(self) -> str:
        kinds = sorted({site.kind for site in self.selected})
        return (
            f"Attachment({self.config}, sharing={self.sharing_name!r}, sites={len(self.selected)} x {'/'.join(kinds)})"
        )


def select_sites(spec: MethodSpec, config: MethodConfig, anatomy: Anatomy) -> list[Site]:
    """The sites of a method on a backbone; an error names the method and what the backbone lacks."""
    try:
        sites = anatomy.select(config.sites, config.blocks, config.exclude)
        reason = spec.module.unsupported(config, sites)
    except ConfigError as error:
        reason = str(error)
    if reason is not None:
        raise ConfigError(f"method {spec.name!r} cannot be attached: {reason}")
    return sites
