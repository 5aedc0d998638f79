"""Where the recipes and the task definitions are: inside an installed package, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

from mtpeft.errors import MtpeftError

PACKAGE = Path(__file__).resolve().parents[1]


def recipes_folder() -> Path:
    """The folder of the recipes that come with mtpeft. Raises `MtpeftError` when the installation lacks it."""
    return _folder("recipes")


def tasks_folder() -> Path:
    """The folder of the task definitions that come with mtpeft. Raises `MtpeftError` when the installation lacks it."""
    return _folder("tasks")


def checkout() -> Path | None:
    """The root of the checkout this package is imported from; None when it is installed from a wheel."""
    root = PACKAGE.parent
    return root if (root / "setup.py").is_file() else None


def _folder(name: str) -> Path:
    installed = PACKAGE / name
    if installed.is_dir():
        return installed
    root = checkout()
    if root is not None and (root / name).is_dir():
        return root / name
    raise MtpeftError(f"the folder {name}/ is missing from the installation in {PACKAGE}; install mtpeft again")
