"""What is known of a task beside its weights: how its inputs are shown, what its outputs mean, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm

from mtpeft.manager.manager import TaskManager

UNKNOWN = "unknown"
#: the keys of timm's data configuration that say how an image becomes an input
INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Facts:
    """For the files that go beside the weights and for the card; all of it may be left out.

    `backbone` is timm's name and `options` what `timm.create_model` got with it; `input` as timm's data configuration
    (`input_size`, `mean`, `std`, `interpolation`, `crop_pct`), by default the backbone's own. By task: `classes` in the order
    of the outputs, `data` what it was trained on. `figures` are lines of what was measured, `licences` by name ("backbone",
    "data").
    """

    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[str, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)

    def shown(self, manager: TaskManager) -> dict[str, Any]:
        """How an image becomes an input, in plain types."""
        own = timm.data.resolve_model_data_config(manager.backbone)
        found = {**own, "input_size": manager.anatomy.input_size, **(self.input or {})}
        return {key: _plain(found[key]) for key in INPUT if key in found}

    def name_of(self, manager: TaskManager) -> str | None:
        """The backbone's name in timm, where it is known."""
        return self.backbone or _config(manager).get("architecture")

    def licence(self, what: str, manager: TaskManager) -> str:
        """The licence of the "backbone" or the "data"; "unknown" where nothing says it."""
        own = _config(manager).get("license") if what == "backbone" else None
        return self.licences.get(what) or own or UNKNOWN


def _config(manager: TaskManager) -> dict[str, Any]:
    return dict(getattr(manager.backbone, "pretrained_cfg", None) or {})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
