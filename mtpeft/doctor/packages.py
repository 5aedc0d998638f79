"""Checks of the installed packages: combinations of versions that fail, most of them only when a run is under way."""

from __future__ import annotations

import os
import platform
import sys

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mtpeft.doctor.check import RANGES, Check, quoted, ranged, requirements, version

RIVALS = {
    "mmengine": ("onedl-mmengine",),
    "mmcv-lite": ("mmcv", "onedl-mmcv"),
    "mmsegmentation": ("onedl-mmsegmentation",),
    "decord": ("decord2",),
}
"""Distributions under one import name; the first is the one mtpeft is tested with."""


def torchvision() -> Check:
    """torchvision 0.(N + 15) is built against torch 2.N; other pairs fail with missing operators."""
    check = ranged("torchvision", "torchvision")
    ours, torch = version("torchvision"), version("torch")
    if check.status != "ok" or ours is None or torch is None:
        return check
    pair, base = Version(ours), Version(torch)
    asked = [Requirement(r) for r in requirements("torchvision")]
    allowed = all(r.specifier.contains(torch, prereleases=True) for r in asked if r.name == "torch")
    paired = (base.major, pair.major) != (2, 0) or pair.minor == base.minor + 15
    if allowed and paired:
        return check
    fitting = f"torchvision==0.{base.minor + 15}.*" if base.major == 2 else "torchvision"
    remedy = f'pip install "torch=={torch}" "{fitting}"'
    return Check("torchvision", "fail", f"{ours} is not the pair of torch {torch}", remedy)


def libraries() -> Check:
    """The other required libraries, in one line."""
    names = ("safetensors", "pillow", "scikit-learn", "plotly", "rich", "tqdm", "packaging")
    found = [ranged(name, name) for name in names]
    wrong = [check for check in found if check.status == "fail"]
    if wrong:
        listed = "; ".join(f"{check.name} {check.found}" for check in wrong)
        return Check("libraries", "fail", listed, "pip install " + " ".join(quoted(check.name) for check in wrong))
    return Check("libraries", "ok", ", ".join(f"{check.name} {check.found}" for check in found))


def distutils() -> Check:
    """Avalanche imports GPUtil, which imports distutils: gone from Python 3.12 but for setuptools' replacement."""
    check = ranged("distutils", "setuptools", note="also stands in for distutils")
    if check.status == "ok" and sys.version_info >= (3, 12) and os.environ.get("SETUPTOOLS_USE_DISTUTILS") == "stdlib":
        found = "SETUPTOOLS_USE_DISTUTILS=stdlib switches setuptools' distutils off; Avalanche needs it"
        return Check("distutils", "fail", found, "unset SETUPTOOLS_USE_DISTUTILS")
    return check


def mmengine() -> Check:
    """MMEngine or its maintained fork, which has the same import name."""
    fork = version("onedl-mmengine")
    if version("mmengine") is None and fork is not None:
        return Check("mmengine", "ok", f"onedl-mmengine {fork}: the maintained fork")
    return ranged("mmengine", "mmengine", note="its resume fails on this torch; mtpeft's own checkpoints are used")


def mmengine_bases() -> Check:
    """MMEngine resolves `_base_ = 'mmseg::...'` with pkg_resources, which setuptools 82 removed."""
    installed = version("setuptools")
    if installed is None or Version(installed) < Version("82"):
        return Check("mmengine bases", "ok", "pkg_resources is there for package:: bases")
    found = f"setuptools {installed}: _base_ = 'package::...' fails; recipes use relative paths"
    return Check("mmengine bases", "ok", found)


def rivals() -> Check:
    """Forks and variants install under one import name and overwrite each other's files."""
    installed = {name: [n for n in (name, *others) if version(n) is not None] for name, others in RIVALS.items()}
    clashes = {name: found for name, found in installed.items() if len(found) > 1}
    if not clashes:
        return Check("import names", "ok", "no two packages under one import name")
    found = "; ".join(f"{' and '.join(names)} overwrite each other" for names in clashes.values())
    remove = " ".join(name for names in clashes.values() for name in names)
    again = " ".join(quoted(name) for name in clashes)
    return Check("import names", "fail", found, f"pip uninstall -y {remove} && pip install {again}")


def mmsegmentation() -> Check:
    """mmsegmentation needs ftfy and regex at import, and does not declare them."""
    fork = version("onedl-mmsegmentation")
    if version("mmsegmentation") is None and fork is None:
        remedy = " ".join(quoted(name) for name in ("mmsegmentation", "mmcv-lite", "ftfy", "regex"))
        return Check("mmsegmentation", "absent", "optional: dense tasks", f"pip install {remedy}")
    missing = [name for name in ("ftfy", "regex") if version(name) is None]
    if missing:
        found = f"imports {' and '.join(missing)}, which it does not install"
        return Check("mmsegmentation", "fail", found, f"pip install {' '.join(missing)}")
    if version("mmsegmentation") is None:
        return Check("mmsegmentation", "ok", f"onedl-mmsegmentation {fork}: the maintained fork, needs no stub")
    return ranged("mmsegmentation", "mmsegmentation")


def mmcv() -> Check:
    """mmsegmentation 1.2.2 refuses mmcv 2.2 and later; the lite package has no compiled operators."""
    forked = version("onedl-mmcv")
    if forked is not None:
        return Check("mmcv", "ok", f"onedl-mmcv {forked}")
    full, lite = version("mmcv"), version("mmcv-lite")
    name, installed = ("mmcv", full) if full is not None else ("mmcv-lite", lite)
    if installed is None:
        needed = version("mmsegmentation") is not None or version("onedl-mmsegmentation") is not None
        found = "mmsegmentation needs it" if needed else "optional: dense tasks"
        return Check("mmcv", "fail" if needed else "absent", found, f"pip install {quoted('mmcv-lite')}")
    if version("mmsegmentation") is not None and installed not in SpecifierSet(RANGES["mmcv-lite"]):
        found = f"{name} {installed}: mmsegmentation 1.2.2 needs {RANGES['mmcv-lite']}"
        # the full package would have to be compiled; the lite one has all that decode heads use
        return Check("mmcv", "fail", found, f"pip uninstall -y {name} && pip install {quoted('mmcv-lite')}")
    note = "" if full is not None else ": no compiled operators, enough for decode heads without them"
    if full is None and version("mmsegmentation") is not None:
        note += "; mtpeft puts a stub in their place"  # mmsegmentation imports them, its fork does not
    return Check("mmcv", "ok", f"{name} {installed}{note}")


def decord() -> Check:
    """decord has wheels for Linux x86-64 only, and crashes at `.cuda()` when imported before torch."""
    for name in ("decord", "decord2"):
        installed = version(name)
        if installed is not None:
            return Check("decord", "ok", f"{name} {installed}: in your own code, import torch before decord")
    plain = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    return Check("decord", "absent", "optional: video", f"pip install {'decord' if plain else 'decord2'}")
