"""What is installed is what is in the checkout: metadata, package data, recipes and tasks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mtpeft.doctor.check import RANGES
from mtpeft.errors import MtpeftError
from mtpeft.runs import paths

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["mtpeft", "recipes", "tasks", "setup.py", "pyproject.toml", "README.md", "LICENSE"]


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    monkeypatch.chdir(ROOT)
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    exec(compile(source, "setup.py", "exec"), {"__file__": str(ROOT / "setup.py"), "__name__": "__main__"})
    return found


def package_files() -> set[str]:
    """Every file that a wheel must hold, by its name in the wheel."""
    names = set()
    for folder, prefix in (("mtpeft", ""), ("recipes", "mtpeft/"), ("tasks", "mtpeft/")):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                names.add(prefix + file.relative_to(ROOT).as_posix())
    return names


def test_every_pattern_of_package_data_matches_a_file(setup_arguments: dict[str, Any]) -> None:
    folders = {"mtpeft": ROOT / "mtpeft"} | {k: ROOT / v for k, v in setup_arguments["package_dir"].items()}
    patterns = [(folders[name], p) for name, patterns in setup_arguments["package_data"].items() for p in patterns]
    unmatched = [f"{folder.name}/{pattern}" for folder, pattern in patterns if not any(folder.glob(pattern))]
    assert set(unmatched) <= {"tasks/**/*.py", "recipes/**/*.md"}, unmatched  # these two may come and go


def test_every_folder_of_modules_is_a_package(setup_arguments: dict[str, Any]) -> None:
    folders = {file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "mtpeft").rglob("*.py")}
    assert {folder.replace("/", ".") for folder in folders} <= set(setup_arguments["packages"])


def test_doctor_and_metadata_agree_on_the_ranges(setup_arguments: dict[str, Any]) -> None:
    listed = [Requirement(r) for r in setup_arguments["install_requires"] + setup_arguments["extras_require"]["dense"]]
    specifiers = {r.name: r.specifier for r in listed if r.name not in ("ftfy", "regex")}
    assert specifiers == {name: Requirement(name + text).specifier for name, text in RANGES.items()}


def test_constraints_pin_every_requirement_inside_its_range(setup_arguments: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(r.name): r for r in map(Requirement, (x for x in lines if x and not x.startswith("#")))}
    extras = setup_arguments["extras_require"]
    for text in [
        *setup_arguments["install_requires"],
        *extras["dev"],
        *extras["sim"],
        *extras["bench"],
        *extras["dense"],
        *extras["mtl"],
    ]:
        wanted = Requirement(text)
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert pin.operator == "==" and wanted.specifier.contains(pin.version), text


def test_forks_replace_upstream_and_nothing_else(setup_arguments: dict[str, Any], tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "fork_requirements.py", tmp_path], check=True)
    names = {
        file.stem: {canonicalize_name(Requirement(line).name) for line in file.read_text(encoding="utf-8").splitlines()}
        for file in tmp_path.glob("*.txt")
    }
    extras = setup_arguments["extras_require"]
    ours = [*setup_arguments["install_requires"]]
    for extra in ("dev", "sim", "bench", "dense", "mtl", "video"):  # what `make test` installs
        ours += extras[extra]
    upstream = {"mmengine", "mmsegmentation"}
    everything = {canonicalize_name(Requirement(text).name) for text in ours}
    assert names["alone"] == {"mmcv-lite"}
    assert names["requirements"] | names["alone"] == everything - upstream | {f"onedl-{name}" for name in upstream}
    assert not names["requirements"] & names["alone"]
    assert not names["constraints"] & upstream
    assert everything - upstream <= names["constraints"]
    pinned = (tmp_path / "constraints.txt").read_text(encoding="utf-8")
    assert pinned.count("mmcv-lite==") == 1 and "mmcv-lite==2.1" not in pinned


def test_folders_in_a_checkout() -> None:
    assert paths.checkout() == ROOT
    assert paths.recipes_folder() == ROOT / "recipes"
    assert paths.tasks_folder() == ROOT / "tasks"


def test_folders_missing_from_an_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()  # somebody else's, beside the package in site-packages
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "mtpeft")
    assert paths.checkout() is None
    with pytest.raises(MtpeftError, match="recipes/ is missing from the installation"):
        paths.recipes_folder()


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {"demo", "test", "test-forks", "nightly", "lint", "bench", "data", "clean"} <= {
        x.split()[1] for x in listed.splitlines()
    }


def test_a_wheel_holds_every_file_and_finds_its_recipes(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: building writes into the source folder
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("mtpeft-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "__pycache__" not in name}
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert package_files() <= names
    assert {name.split("/")[0] for name in names} == {"mtpeft", wheel.name.split("-py3")[0] + ".dist-info"}
    assert "License-Expression: Apache-2.0" in metadata
    (pythons,) = (line for line in metadata.splitlines() if line.startswith("Requires-Python: "))
    assert SpecifierSet(pythons.split(": ")[1]) == SpecifierSet(">=3.10,<3.14")

    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    code = "from mtpeft.runs.paths import checkout, recipes_folder, tasks_folder; print(recipes_folder(), tasks_folder()); "
    printed = subprocess.run(
        [sys.executable, "-c", code + "assert checkout() is None"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert printed == [str(target / "mtpeft" / "recipes"), str(target / "mtpeft" / "tasks")]
