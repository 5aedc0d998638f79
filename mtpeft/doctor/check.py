"""What a check finds, and the versions that are supported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.specifiers import SpecifierSet

RANGES = {
    "torch": ">=2.4",
    "torchvision": ">=0.19",
    "timm": ">=1.0.20",
    "avalanche-lib": ">=0.6,<0.7",
    "mmengine": ">=0.10.7,<0.11",
    "safetensors": ">=0.4",
    "numpy": ">=1.26",
    "pillow": ">=10",
    "scipy": ">=1.11",
    "scikit-learn": ">=1.4",
    "plotly": ">=5.20",
    "rich": ">=13",
    "tqdm": ">=4.60",
    "packaging": ">=22",
    "setuptools": ">=77",
    "mmsegmentation": ">=1.2.2,<1.3",
    "mmcv-lite": ">=2.1,<2.2",
}
"""Supported versions, those of setup.py (a test compares the two)."""

Status = Literal["ok", "warn", "fail", "absent"]


@dataclass(frozen=True)
class Check:
    """One finding. `absent`: an optional part that is not installed. `remedy` is one line to paste, or empty."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[str]:
    """What an installed distribution says it requires."""
    return metadata.requires(name) or []


def ranged(label: str, name: str, note: str = "") -> Check:
    """A required distribution in the range of `RANGES`."""
    installed = version(name)
    remedy = f"pip install {quoted(name)}"
    if installed is None:
        return Check(label, "fail", f"{name} is not installed", remedy)
    if not SpecifierSet(RANGES[name]).contains(installed, prereleases=True):
        return Check(label, "fail", f"{installed}, needs {RANGES[name]}", remedy)
    return Check(label, "ok", f"{installed}; {note}" if note else installed)


def quoted(name: str) -> str:
    """The distribution with its range, as a shell word."""
    return f'"{name}{RANGES[name]}"' if name in RANGES else name
