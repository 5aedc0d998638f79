"""mtpeft: continual and multi-task learning with parameter-efficient fine-tuning for vision models.

`attach` a method to a backbone, `load` a saved manager; everything else hangs on the `TaskManager` they return. `load_run`
makes a finished run predict.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mtpeft._version import __version__
from mtpeft.errors import MtpeftError

if TYPE_CHECKING:
    from mtpeft.data.feature_cache import FeatureCache
    from mtpeft.exports.export import export
    from mtpeft.exports.from_peft import from_peft
    from mtpeft.manager.attach import attach, create_backbone
    from mtpeft.manager.loading import load
    from mtpeft.manager.manager import TaskManager
    from mtpeft.methods import METHODS, MethodConfig, Properties, SiteModule, register
    from mtpeft.runs.prediction import load_run

#: public names and the modules they live in; imported on first use, so that the command line answers at once
_LAZY = {
    "FeatureCache": "mtpeft.data.feature_cache",
    "attach": "mtpeft.manager.attach",
    "create_backbone": "mtpeft.manager.attach",
    "export": "mtpeft.exports.export",
    "from_peft": "mtpeft.exports.from_peft",
    "load": "mtpeft.manager.loading",
    "load_run": "mtpeft.runs.prediction",
    "TaskManager": "mtpeft.manager.manager",
    "METHODS": "mtpeft.methods",
    "MethodConfig": "mtpeft.methods",
    "Properties": "mtpeft.methods",
    "SiteModule": "mtpeft.methods",
    "register": "mtpeft.methods",
}

__all__ = [
    "METHODS",
    "FeatureCache",
    "MethodConfig",
    "MtpeftError",
    "Properties",
    "SiteModule",
    "TaskManager",
    "__version__",
    "attach",
    "create_backbone",
    "export",
    "from_peft",
    "load",
    "load_run",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mtpeft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value  # over a submodule of the same name
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
