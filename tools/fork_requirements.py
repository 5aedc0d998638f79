#!/usr/bin/env python3
"""What pip installs to test mtpeft with the maintained forks of the OpenMMLab packages: fork_requirements.py FOLDER.

Each pin `onedl-NAME` of constraints-forks.txt stands in for upstream's NAME, and any other pin there goes before the
one of constraints.txt. Written into FOLDER: `constraints.txt`; `requirements.txt`, what setup.py asks for with these
replacements; and `alone.txt`, the packages to install without their requirements, which name upstream's packages.
setup.py is read, not run, so that a bare Python can do this.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORK = "onedl-"
EXTRAS = ("dev", "sim", "bench", "dense", "mtl", "video")
ALONE = ("mmcv-lite",)
"""Packages that require upstream's mmengine by name; all else that they need, the forks require as well."""


def name_of(requirement: str) -> str:
    """The canonical name of the distribution that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


def pins(file: Path) -> dict[str, str]:
    """The lines of a constraints file by name of the distribution."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


def asked(setup: Path) -> list[str]:
    """The requirements in setup.py, those of the extras that the tests need with them."""
    assignments = [n for n in ast.parse(setup.read_text(encoding="utf-8")).body if isinstance(n, ast.Assign)]
    values = {ast.unparse(n.targets[0]): n.value for n in assignments}
    extras = ast.literal_eval(values["EXTRAS"])
    return [*ast.literal_eval(values["REQUIRES"]), *(text for extra in EXTRAS for text in extras[extra])]


def files(root: Path) -> dict[str, list[str]]:
    """The lines of the three files, by file name, for the checkout at `root`."""
    forks = pins(root / "constraints-forks.txt")
    replaced = {name.removeprefix(FORK) for name in forks}
    kept = [line for name, line in pins(root / "constraints.txt").items() if name not in replaced]
    requirements = [text for text in asked(root / "setup.py") if name_of(text) not in replaced]
    requirements += [name for name in forks if name not in ALONE]
    return {
        "constraints.txt": [*kept, *forks.values()],
        "requirements.txt": requirements,
        "alone.txt": [forks[name] for name in ALONE],
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: fork_requirements.py FOLDER")
    for file, lines in files(ROOT).items():
        Path(sys.argv[1], file).write_text("\n".join(lines) + "\n", encoding="utf-8")
