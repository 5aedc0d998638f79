"""A head from its name and options, sized for the features it reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.stages import Scales, merged_stages
from mtpeft.errors import ConfigError
from mtpeft.heads.base import HEADS


def build_head(name: str, options: dict[str, Any], anatomy: Anatomy, pooled_dim: int) -> nn.Module:
    """The head registered as `name`. Raises `UnknownNameError`, or `ConfigError` for options it does not take."""
    kind: Any = HEADS.get(name)
    first: Any = pooled_dim if kind.reads in ("pooled", "frames") else anatomy.feature_dim
    if kind.reads == "map":
        options = {"stride": anatomy.image_size[0] // anatomy.grid[0], **options}
    elif kind.reads in ("stages", "merged"):
        first = Scales(anatomy.stages if kind.reads == "stages" else merged_stages(anatomy), anatomy.image_size)
    try:
        return kind(first, **options)
    except TypeError as error:
        raise ConfigError(f"head {name!r}: {error}".replace(f"{kind.__name__}.__init__() ", "")) from None
