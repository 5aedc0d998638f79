"""A head from its name and options, sized for the features it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.stages import Scales, merged_stages
from mtpeft.heads.base import HEADS
from mtpeft.options import check_options, options_of


def build_head(
    name: str, options: Mapping[str, Any], anatomy: Anatomy, pooled_dim: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The head registered as `name`, and its options as it takes them.

    Raises `UnknownNameError`, or `ConfigError` for options it does not take.
    """
    kind = HEADS.get(name)
    filled = {"stride": anatomy.image_size[0] // anatomy.grid[0]} if kind.reads == "map" else {}
    checked = head_options(name, {**filled, **options})
    first: Any = pooled_dim if kind.reads in ("pooled", "frames") else anatomy.feature_dim
    if kind.reads in ("stages", "merged"):
        first = Scales(anatomy.stages if kind.reads == "stages" else merged_stages(anatomy), anatomy.image_size)
    build: Any = kind
    return build(first, **checked), {key: checked[key] for key in options}


def head_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the head registered as `name`, each as it declares it; what it is sized by is none of them."""
    kind = HEADS.get(name)
    return check_options(f"head {name!r}", kind, options, given=list(options_of(kind))[:1])
