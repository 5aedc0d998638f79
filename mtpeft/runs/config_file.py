"""config.py of a run folder: the resolved recipe as assignments of plain values, with the SHA-256 of the text below them.

It is read as text and never run.
"""

from __future__ import annotations

import ast
import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtpeft.errors import ConfigError
from mtpeft.files import sha256, write_atomic

CONFIG = "config.py"
_SEAL = "\n# SHA-256 of all above: "


def write_config(folder: Path, recipe: Mapping[str, Any], continued: Sequence[Mapping[str, Any]]) -> None:
    """Write config.py into `folder`; `continued` are the changes of a run that went on."""
    text = f'"""The resolved recipe of this run."""\n\nrecipe = {pprint.pformat(recipe, width=100, sort_dicts=True)}\n'
    if continued:
        text += f"\n# changes of a run that went on\ncontinued = {pprint.pformat(continued, width=100)}\n"
    write_atomic(folder / CONFIG, f"{text}{_SEAL}{sha256(text.encode())}\n")


def read_config(config: Path, whole: bool = False) -> dict[str, Any]:
    """The values config.py assigns, `recipe` among them; `whole`: only from a file that is as it was written, to the byte.

    Raises `ConfigError` for a damaged file.
    """
    try:
        text, _, seal = config.read_bytes().rpartition(_SEAL.encode())
    except OSError:
        text, seal = b"", b""
    if whole and seal != f"{sha256(text)}\n".encode():
        raise ConfigError(
            f"{config.parent} cannot go on: its config.py differs from what the run wrote there; give another --out, or "
            "--fresh to discard it"
        )
    try:
        lines = [line for line in ast.parse(config.read_text(encoding="utf-8")).body if isinstance(line, ast.Assign)]
        found = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}  # type: ignore[attr-defined]
        if isinstance(found["recipe"], dict) and isinstance(found.get("continued", []), list):
            return found
    except (OSError, SyntaxError, ValueError, AttributeError, KeyError, TypeError, RecursionError, MemoryError):
        pass
    raise ConfigError(f"{config} is damaged; it should hold the resolved recipe")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The resolved recipe of a run folder; `ConfigError` where it is none."""
    config = Path(path) / CONFIG
    if not config.is_file():
        raise ConfigError(f"{path} is no run folder: it has no config.py")
    recipe: dict[str, Any] = read_config(config)["recipe"]
    return recipe
