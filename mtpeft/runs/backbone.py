"""The section `backbone` of a recipe: which model, from which weights, and whether it trains as in its own training.

Keys: `name` (timm's), `pretrained`, `options` (timm's, as `img_size` or `drop_path_rate`) and `train_mode`. A frozen backbone
stays in eval mode, where its dropout and drop path do nothing; `train_mode=True` switches them on in training. Statistics
of batch norm stay as pre-trained either way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from timm.layers import DropPath, PatchDropout
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from mtpeft.errors import ConfigError
from mtpeft.manager.attach import attach, create_backbone
from mtpeft.manager.manager import TaskManager
from mtpeft.options import Section

#: options of timm's models that act in training mode alone: drop_rate, drop_path_rate, attn_drop_rate, proj_drop, ...
RATE = re.compile(r"(^|_)(drop|dropout)(_|$)")


@dataclass(frozen=True)
class BackboneSection:
    """The section, read."""

    name: str
    pretrained: bool
    options: dict[str, Any]
    train_mode: bool
    recipe: str

    @classmethod
    def read(cls, section: Section) -> BackboneSection:
        """All keys; raises `ConfigError` for a missing, unknown or wrong one."""
        name, pretrained = section.take("name", kind=str), section.take("pretrained", True, bool)
        options = dict(section.section("options").values)
        train_mode = section.take("train_mode", False, bool)
        section.finish()
        return cls(name, pretrained, options, train_mode, section.recipe)

    def create(self) -> nn.Module:
        """The model; see `create_backbone` for errors."""
        return create_backbone(self.name, self.pretrained, **self.options)

    def attach(self, model: nn.Module, method: Any, sharing: Any) -> TaskManager:
        """A manager of `model`. Raises `ConfigError` for a rate that would have no effect, and a mode that has none; `model` is
        then as it was.
        """
        manager = attach(model, method, sharing=sharing, backbone_train_mode=self.train_mode)
        rates = {k: v for k, v in self.options.items() if RATE.search(k) and isinstance(v, (int, float)) and v > 0}
        if rates and not manager.backbone_train_mode:
            key, value = next(iter(rates.items()))
            manager.detach()
            raise ConfigError(
                f"recipe {self.recipe}: backbone.options.{key}={value} does nothing while the frozen backbone is in eval "
                "mode; add backbone.train_mode=True, or leave the option out"
            )
        if self.train_mode and not manager.trains_all and not drops(model):
            manager.detach()
            raise ConfigError(
                f"recipe {self.recipe}: backbone.train_mode=True does nothing: {self.name} has no dropout or drop path "
                "above 0; give one in backbone.options, as drop_path_rate=0.1, or leave the key out"
            )
        return manager


def drops(model: nn.Module) -> bool:
    """Whether the model drops anything in training mode."""
    return any(
        (isinstance(m, _DropoutNd) and m.p > 0)
        or (isinstance(m, DropPath) and m.drop_prob > 0)
        or (isinstance(m, PatchDropout) and m.prob > 0)
        for m in model.modules()
    )
