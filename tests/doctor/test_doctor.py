"""Every trap is set by changing what the doctor sees, and must give its status and its remedy."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from mtpeft import doctor
from mtpeft.doctor import machine, packages
from mtpeft.doctor.check import Check, ranged

HEALTHY = {
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "timm": "1.0.31",
    "avalanche-lib": "0.6.0",
    "mmengine": "0.10.7",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "scikit-learn": "1.9.1",
    "plotly": "7.1.0",
    "rich": "15.0.0",
    "tqdm": "4.70.1",
    "packaging": "26.3",
    "setuptools": "84.2.1",
    "mmsegmentation": "1.2.2",
    "mmcv-lite": "2.1.0",
    "ftfy": "6.3.1",
    "regex": "2026.11.15",
    "decord": "0.6.0",
}
PYTHON = namedtuple("PYTHON", "major minor micro releaselevel serial")
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The installed distributions the doctor sees: a healthy set, to be changed by the test."""
    versions = dict(HEALTHY)

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.14.0"] if name == "torchvision" else [])
    return versions


def expect(check: Check, status: str, remedy: str) -> None:
    assert (check.status, check.remedy) == (status, remedy), check
    assert check.found
    assert "\n" not in check.remedy


def set_python(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    monkeypatch.setattr(sys, "version_info", PYTHON(3, minor, 0, "final", 0))


@pytest.mark.parametrize(
    ("name", "bad", "remedy"),
    [
        ("torch", "2.3.1", 'pip install "torch>=2.4"'),
        ("timm", "1.0.19", 'pip install "timm>=1.0.20"'),
        ("avalanche-lib", "0.5.0", 'pip install "avalanche-lib>=0.6,<0.7"'),
        ("avalanche-lib", "0.7.0", 'pip install "avalanche-lib>=0.6,<0.7"'),
        ("numpy", "1.23.5", 'pip install "numpy>=1.26"'),
    ],
)
def test_a_version_out_of_range_fails(installed: dict[str, str], name: str, bad: str, remedy: str) -> None:
    assert ranged(name, name).status == "ok"
    installed[name] = bad
    expect(ranged(name, name), "fail", remedy)
    del installed[name]
    expect(ranged(name, name), "fail", remedy)


def test_local_and_development_versions_count_as_their_release(installed: dict[str, str]) -> None:
    installed["torch"] = "2.15.0.dev20261101+cu130"
    assert ranged("torch", "torch").status == "ok"


@pytest.mark.parametrize(("minor", "status"), [(9, "fail"), (10, "ok"), (13, "ok"), (14, "fail")])
def test_python(monkeypatch: pytest.MonkeyPatch, minor: int, status: str) -> None:
    set_python(monkeypatch, minor)
    check = machine.python()
    assert check.status == status
    assert ("python3.11 -m venv" in check.remedy) == (status == "fail")


@pytest.mark.parametrize("pair", ["0.28.0", "0.30.0"])
def test_torchvision_of_another_torch(installed: dict[str, str], pair: str) -> None:
    assert packages.torchvision().status == "ok"
    installed["torchvision"] = pair
    expect(packages.torchvision(), "fail", 'pip install "torch==2.14.1" "torchvision==0.29.*"')


def test_torchvision_that_requires_another_torch(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==2.14.2"])
    expect(packages.torchvision(), "fail", 'pip install "torch==2.14.1" "torchvision==0.29.*"')


def test_torchvision_absent(installed: dict[str, str]) -> None:
    del installed["torchvision"]
    expect(packages.torchvision(), "fail", 'pip install "torchvision>=0.19"')


def test_libraries_are_listed_together(installed: dict[str, str]) -> None:
    assert packages.libraries().status == "ok"
    installed["rich"] = "12.0"
    del installed["plotly"]
    expect(packages.libraries(), "fail", 'pip install "plotly>=5.20" "rich>=13"')


def test_distutils(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_python(monkeypatch, 12)
    assert packages.distutils().status == "ok"
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    expect(packages.distutils(), "fail", "unset SETUPTOOLS_USE_DISTUTILS")
    set_python(monkeypatch, 11)
    assert packages.distutils().status == "ok"
    installed["setuptools"] = "65.5.0"
    expect(packages.distutils(), "fail", 'pip install "setuptools>=77"')


def test_mmengine(installed: dict[str, str]) -> None:
    assert packages.mmengine().status == "ok"
    installed["mmengine"] = "0.10.4"
    expect(packages.mmengine(), "fail", 'pip install "mmengine>=0.10.7,<0.11"')
    del installed["mmengine"]
    expect(packages.mmengine(), "fail", 'pip install "mmengine>=0.10.7,<0.11"')
    installed["onedl-mmengine"] = "0.10.12"
    assert packages.mmengine().status == "ok"


def test_mmengine_bases_depend_on_setuptools(installed: dict[str, str]) -> None:
    assert "_base_ = 'package::...' fails" in packages.mmengine_bases().found
    installed["setuptools"] = "80.9.0"
    assert "is there" in packages.mmengine_bases().found


@pytest.mark.parametrize(
    ("second", "remedy"),
    [
        ("onedl-mmengine", 'pip uninstall -y mmengine onedl-mmengine && pip install "mmengine>=0.10.7,<0.11"'),
        ("onedl-mmcv", 'pip uninstall -y mmcv-lite onedl-mmcv && pip install "mmcv-lite>=2.1,<2.2"'),
        ("mmcv", 'pip uninstall -y mmcv-lite mmcv && pip install "mmcv-lite>=2.1,<2.2"'),
        (
            "onedl-mmsegmentation",
            'pip uninstall -y mmsegmentation onedl-mmsegmentation && pip install "mmsegmentation>=1.2.2,<1.3"',
        ),
        ("decord2", "pip uninstall -y decord decord2 && pip install decord"),
    ],
)
def test_two_packages_under_one_import_name(installed: dict[str, str], second: str, remedy: str) -> None:
    assert packages.rivals().status == "ok"
    installed[second] = "2.1.0"
    expect(packages.rivals(), "fail", remedy)


def test_mmsegmentation(installed: dict[str, str]) -> None:
    assert packages.mmsegmentation().status == "ok"
    installed["mmsegmentation"] = "1.1.0"
    expect(packages.mmsegmentation(), "fail", 'pip install "mmsegmentation>=1.2.2,<1.3"')
    del installed["ftfy"], installed["regex"]
    expect(packages.mmsegmentation(), "fail", "pip install ftfy regex")
    del installed["mmsegmentation"]
    everything = 'pip install "mmsegmentation>=1.2.2,<1.3" "mmcv-lite>=2.1,<2.2" ftfy regex'
    expect(packages.mmsegmentation(), "absent", everything)
    installed.update({"onedl-mmsegmentation": "1.4.2", "ftfy": "6.3.1", "regex": "2026.11.15"})
    assert packages.mmsegmentation().status == "ok"


def test_mmcv(installed: dict[str, str]) -> None:
    assert "no compiled operators" in packages.mmcv().found
    installed["mmcv-lite"] = "2.2.0"
    expect(packages.mmcv(), "fail", 'pip uninstall -y mmcv-lite && pip install "mmcv-lite>=2.1,<2.2"')
    del installed["mmcv-lite"]
    expect(packages.mmcv(), "fail", 'pip install "mmcv-lite>=2.1,<2.2"')
    installed["mmcv"] = "2.2.0"
    expect(packages.mmcv(), "fail", 'pip uninstall -y mmcv && pip install "mmcv-lite>=2.1,<2.2"')
    installed["mmcv"] = "2.1.0"
    assert packages.mmcv() == Check("mmcv", "ok", "mmcv 2.1.0")
    del installed["mmcv"], installed["mmsegmentation"]
    expect(packages.mmcv(), "absent", 'pip install "mmcv-lite>=2.1,<2.2"')
    installed["onedl-mmcv"] = "2.3.6"
    assert packages.mmcv().status == "ok"


@pytest.mark.parametrize(
    ("system", "processor", "name"), [("Linux", "x86_64", "decord"), ("Darwin", "arm64", "decord2")]
)
def test_decord(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, system: str, processor: str, name: str
) -> None:
    assert "import torch before decord" in packages.decord().found
    del installed["decord"]
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    expect(packages.decord(), "absent", f"pip install {name}")
    installed[name] = "3.4.0"
    assert packages.decord().status == "ok"


def test_the_maintained_forks_raise_no_alarm_and_are_named(installed: dict[str, str]) -> None:
    assert "stub" in packages.mmcv().found
    del installed["mmengine"], installed["mmsegmentation"]
    installed.update({"onedl-mmengine": "0.10.12", "onedl-mmsegmentation": "1.4.2", "mmcv-lite": "2.2.0"})
    found = [packages.mmengine(), packages.mmsegmentation(), packages.mmcv(), packages.rivals()]
    assert [check.status for check in found] == ["ok"] * 4, found
    assert found[0].found.startswith("onedl-mmengine 0.10.12")
    assert found[1].found.startswith("onedl-mmsegmentation 1.4.2")
    assert "stub" not in found[2].found
    del installed["mmcv-lite"]
    assert packages.mmcv().status == "fail"


def test_accelerator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", tmp_path / "version")
    assert machine.accelerator().status == "ok"
    (tmp_path / "version").touch()
    monkeypatch.setattr(machine, "torch_cuda", lambda: "13.0")
    assert machine.accelerator().status == "ok"
    monkeypatch.setattr(machine, "torch_cuda", lambda: None)
    expect(machine.accelerator(), "warn", "pip uninstall -y torch torchvision && pip install torch torchvision")


def test_torch_cuda_reads_what_torch_says() -> None:
    import torch

    assert machine.torch_cuda() == torch.version.cuda


def test_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "WEIGHTS", tmp_path)
    restore = f"git checkout -- {tmp_path}"
    expect(machine.weights(), "fail", restore)
    file, card = tmp_path / "tiny.safetensors", tmp_path / "tiny.md"
    file.write_bytes(b"weights")
    expect(machine.weights(), "fail", restore)
    card.write_text(f"SHA-256: {hashlib.sha256(b'weights').hexdigest()}")
    assert machine.weights() == Check("embedded backbone", "ok", "tiny")
    file.write_bytes(b"damaged")
    expect(machine.weights(), "fail", restore)
    monkeypatch.setattr(machine, "checkout", lambda: None)
    expect(machine.weights(), "fail", "pip install --force-reinstall --no-deps mtpeft")


def test_the_packaged_weights_are_those_of_their_card() -> None:
    assert machine.weights().status == "ok"


def test_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTPEFT_DATA", raising=False)
    monkeypatch.setattr(machine, "FASHION_MNIST", tmp_path / "nowhere")
    folder = Path("data") / "fashion-mnist"
    folder.mkdir(parents=True)
    for name in machine.FASHION_MNIST_FILES:  # absent until the last file is there
        expect(machine.fashion_mnist(), "absent", "apt-get update && apt-get install -y dataset-fashion-mnist")
        (folder / name).touch()
    assert machine.fashion_mnist() == Check("Fashion-MNIST", "ok", str(folder))


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_fashion_mnist_is_looked_for_where_it_is_read(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    from mtpeft.data import fashion_mnist

    monkeypatch.delenv("MTPEFT_DATA", raising=False)
    if given is not None:
        monkeypatch.setenv("MTPEFT_DATA", given)
    assert machine.fashion_mnist_folders() == fashion_mnist._default_folders()


def test_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "google-chrome" else None)
    assert machine.chromium() == Check("chromium", "ok", "/usr/bin/google-chrome")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    expect(machine.chromium(), "absent", "apt-get update && apt-get install -y chromium")


def test_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "today"
    assert machine.run_folder_writable(run).status == "ok"
    assert not run.parent.exists(), "the check leaves nothing behind"

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    expect(machine.run_folder_writable(run), "fail", f"chmod u+rwx {tmp_path}")


def test_run_folder_under_a_file(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.touch()
    expect(machine.run_folder_writable(file / "today"), "fail", f"mv {file} {file}.old")


@pytest.mark.parametrize(("gib", "status"), [(50.0, "ok"), (1.0, "warn"), (0.1, "fail")])
def test_disk_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gib: float, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, int(gib * 2**30)))
    check = machine.disk_space(tmp_path / "runs")
    assert check.status == status
    assert check.remedy.startswith(f"du -sh {tmp_path}/*") == (status != "ok")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert machine.threads().status == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    expect(machine.threads(), "warn", "export OMP_NUM_THREADS=2")


def test_main_prints_the_remedy_on_one_line_and_exits_with_1(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "weights", lambda: Check("embedded backbone", "ok", "tiny"))
    assert doctor.main(tmp_path) == 0
    out = capsys.readouterr().out
    assert all(check.name in out for check in doctor.checks(tmp_path))
    assert out.rstrip().endswith("0 failed")
    words = " ".join(out.split())
    assert all(
        " ".join(f"{check.status} {check.name} {check.found}".split()) in words
        for check in doctor.checks(tmp_path)[:-3]
    )
    long = [line for line in out.splitlines() if len(line) > 80 and not line.startswith(("apt", "pip"))]
    assert all(len(line.split()) == 1 for line in long)  # a path is never broken
    installed.update({"decord2": "3.4.0", "onedl-mmengine": "0.10.12"})  # a remedy longer than the terminal is wide
    assert doctor.main(tmp_path) == 1
    assert packages.rivals().remedy in capsys.readouterr().out.splitlines()


def test_no_heavy_import_and_quick(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.perf_counter(); from pathlib import Path; from mtpeft.doctor import checks; "
        f"checks(Path({str(tmp_path)!r})); seconds = time.perf_counter() - start; "
        "heavy = {'torch', 'timm', 'avalanche', 'mmengine', 'decord', 'mmcv'} & set(sys.modules); "
        "assert not heavy, heavy; assert seconds < 2, seconds"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
