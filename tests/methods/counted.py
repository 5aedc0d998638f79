"""Numbers of trained weights without a real backbone: shapes on the meta device are enough to count."""

from __future__ import annotations

from functools import cache
from typing import Any

import timm
import torch

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.hooks.attachment import Attachment
from mtpeft.methods import METHODS


@cache
def anatomy(model: str) -> Anatomy:
    """A timm model whose weights have shapes and no values."""
    with torch.device("meta"):
        return Anatomy(timm.create_model(model, pretrained=False, num_classes=0))


def trained(model: str, method: str, **options: Any) -> int:
    """Weights of one task, heads apart: its own or shared ones, and the backbone's own where the method trains them."""
    spec, on = METHODS.get(method), anatomy(model)
    config = spec.build_config(options)
    with torch.device("meta"):
        attachment = Attachment(spec, config, on, spec.sharings[0])
        attachment.weights.add_task("birds")
    added = {p for m in attachment.weights.modules_of("birds") for p in m.parameters() if p.requires_grad}
    owned = () if spec.owned is None else spec.owned(config, on)
    return sum(p.numel() for p in added) + sum(on.backbone.get_parameter(name).numel() for name in owned)
