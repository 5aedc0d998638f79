"""The methods: one file each, in folders named as the taxonomy is. Importing this package registers all of them."""

from __future__ import annotations

import importlib
import pkgutil

from mtpeft.methods.base import MethodConfig, SiteModule
from mtpeft.methods.spec import METHODS, MethodSpec, Properties, register

for _module in pkgutil.walk_packages(__path__, prefix=__name__ + "."):
    importlib.import_module(_module.name)

__all__ = ["METHODS", "MethodConfig", "MethodSpec", "Properties", "SiteModule", "register"]
