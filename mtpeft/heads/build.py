"""A head from its name and options, sized for the features it reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.site import Stage
from mtpeft.backbones.stages import Scales, merged_stages
from mtpeft.errors import ConfigError
from mtpeft.heads.base import HEADS
from mtpeft.options import check_options, options_of


def own_head(head: Any, backbone: nn.Module) -> nn.Module:
    """A module given as head. One with parameters of the backbone (its classifier, say) is copied, and the copy trained.

    The backbone stays frozen and gets nothing of the training. Raises `ConfigError` for what is no module.
    """
    if not isinstance(head, nn.Module):
        raise ConfigError(
            f"a head is a name, a mapping or one module, not {type(head).__name__} (a distilled backbone has two classifiers)"
        )
    theirs = set(backbone.parameters())
    if not any(parameter in theirs for parameter in head.parameters()):
        return head
    return copy.deepcopy(head).requires_grad_(True)


def build_head(
    name: str, options: Mapping[str, Any], anatomy: Anatomy, pooled_dim: int, stages: Sequence[Stage]
) -> tuple[nn.Module, dict[str, Any]]:
    """The head registered as `name`, and its options as it takes them; `stages` are what heads of several scales read.

    Raises `UnknownNameError`, or `ConfigError` for options it does not take.
    """
    kind = HEADS.get(name)
    filled = {"stride": anatomy.stages[-1].stride} if kind.reads == "map" else {}
    checked = head_options(name, {**filled, **options})
    first: Any = pooled_dim if kind.reads in ("pooled", "frames") else anatomy.feature_dim
    if kind.reads in ("stages", "merged"):
        first = Scales(stages if kind.reads == "stages" else merged_stages(anatomy), anatomy.image_size)
    build: Any = kind
    head = build(first, **checked)
    if filled.keys() & options.keys():  # an enlargement of the user's own, not that to the images' size
        head.sized = False
    return head, {key: checked[key] for key in options}


def head_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the head registered as `name`, each as it declares it; what it is sized by is none of them."""
    kind = HEADS.get(name)
    return check_options(f"head {name!r}", kind, options, given=list(options_of(kind))[:1])
