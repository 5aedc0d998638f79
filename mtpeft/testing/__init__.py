"""Tools for tests: tiny backbones of every anatomy (`TINY`, `tiny_backbone`), conformance (`check_method`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtpeft.testing.backbones import TINY, tiny_backbone
    from mtpeft.testing.conformance import check_method

_LAZY = {
    "TINY": "mtpeft.testing.backbones",
    "tiny_backbone": "mtpeft.testing.backbones",
    "check_method": "mtpeft.testing.conformance",
}

__all__ = ["TINY", "check_method", "tiny_backbone"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'mtpeft.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
