"""Modules of a user's own: files or import names whose `register` calls add methods, heads, data sets, ..."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from mtpeft.errors import ConfigError


def import_user_code(names: Sequence[str]) -> None:
    """Import each of `names` once per process: a path that ends in .py, or a module name."""
    for name in names:
        if not name.endswith(".py"):
            _import_module(name)
            continue
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"key imports: there is no file {name}")
        module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if module_name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, ImportError, NameError) as error:
            del sys.modules[module_name]
            raise ConfigError(f"key imports: {name} cannot be imported: {error}") from error


def _import_module(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"key imports: module {name!r} cannot be imported: {error}") from error
