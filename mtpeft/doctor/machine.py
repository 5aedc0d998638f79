"""Checks of the machine: interpreter, GPU, files, disk and cores."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from importlib import util
from pathlib import Path

from mtpeft.doctor.check import Check
from mtpeft.files import sha256
from mtpeft.runs.paths import PACKAGE, checkout
from mtpeft.runs.threads import usable_cores

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_FILES = tuple(
    f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
WEIGHTS = PACKAGE / "backbones" / "weights"
GIB = 2**30


def python() -> Check:
    """Python 3.14 removed `pkgutil.find_loader`, which mmengine and mmcv call."""
    running = sys.version_info[:2]
    found = platform.python_version()
    if (3, 10) <= running < (3, 14):
        return Check("python", "ok", found)
    why = "pkgutil.find_loader, which mmengine and mmcv call, is gone" if running >= (3, 14) else "too old"
    return Check("python", "fail", f"{found}: {why}", "python3.11 -m venv .venv && .venv/bin/pip install mtpeft")


def accelerator() -> Check:
    """Whether torch's build can use the GPU that is there. MMEngine's AmpOptimWrapper asserts a GPU."""
    if not NVIDIA_DRIVER.exists():
        return Check("accelerator", "ok", "no NVIDIA driver: runs on the CPU (MMEngine's AmpOptimWrapper needs a GPU)")
    build = torch_cuda()
    if build is None:
        remedy = "pip uninstall -y torch torchvision && pip install torch torchvision"
        return Check("accelerator", "warn", "an NVIDIA driver, but torch is built without CUDA", remedy)
    return Check("accelerator", "ok", f"NVIDIA driver, torch built for CUDA {build}")


def torch_cuda() -> str | None:
    """The CUDA version torch is built for, read from its version file without importing it; None for a CPU build."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
    return match.group(1) if match else None


def weights() -> Check:
    """The packaged backbones, byte for byte those their cards describe."""
    files = sorted(WEIGHTS.glob("*.safetensors"))
    remedy = "pip install --force-reinstall --no-deps mtpeft"
    if checkout() is not None:
        remedy = f"git checkout -- {WEIGHTS}"
    if not files:
        return Check("embedded backbone", "fail", f"no weights in {WEIGHTS}", remedy)
    for file in files:
        card = file.with_suffix(".md")
        if not card.is_file():
            return Check("embedded backbone", "fail", f"{file.name} has no card {card.name}", remedy)
        if sha256(file.read_bytes()) not in card.read_text(encoding="utf-8"):
            return Check("embedded backbone", "fail", f"{file.name} is not the file its card describes", remedy)
    return Check("embedded backbone", "ok", ", ".join(file.stem for file in files))


def fashion_mnist() -> Check:
    """The data of the demo and of the tests."""
    folders = fashion_mnist_folders()
    for folder in folders:
        if all((folder / file).is_file() for file in FASHION_MNIST_FILES):
            return Check("Fashion-MNIST", "ok", str(folder))
    looked = ", ".join(map(str, folders))
    return Check("Fashion-MNIST", "absent", f"the demo's data; looked in {looked}", _apt("dataset-fashion-mnist"))


def fashion_mnist_folders() -> list[Path]:
    """Where `mtpeft.data.fashion_mnist` looks (it imports torch, so the list is repeated; a test compares the two)."""
    given = os.environ.get("MTPEFT_DATA")
    chosen = [Path(given), Path(given) / "fashion-mnist"] if given else []
    return [*chosen, Path("data") / "fashion-mnist", FASHION_MNIST]


def chromium() -> Check:
    """The browser in which the tests open the report."""
    for name in CHROMIUM:
        path = shutil.which(name)
        if path is not None:
            return Check("chromium", "ok", path)
    return Check("chromium", "absent", "optional: only the tests of the report use it", _apt("chromium"))


def run_folder_writable(run_folder: Path) -> Check:
    """Whether a file can be made where the runs go."""
    folder = _existing(run_folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = f"chmod u+rwx {folder}" if folder.is_dir() else f"mv {folder} {folder}.old"
        return Check("run folder", "fail", f"cannot write in {folder}: {error.strerror}", remedy)
    return Check("run folder", "ok", f"{folder} is writable")


def disk_space(run_folder: Path) -> Check:
    """A run with full fine-tuning of ViT-B writes about 1 GiB (weights and both moments of Adam)."""
    folder = _existing(run_folder)
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free >= 2 * GIB:
        return Check("disk space", "ok", found)
    return Check("disk space", "fail" if free < GIB / 4 else "warn", found, f"du -sh {folder}/* | sort -h  # make room")


def threads() -> Check:
    """More threads than cores make every operator slower."""
    cores = usable_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > cores:
        found = f"OMP_NUM_THREADS={asked} on {cores} cores"
        return Check("threads", "warn", found, f"export OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", f"{cores} cores, OMP_NUM_THREADS={asked or 'unset'}")


def _apt(package: str) -> str:
    return f"apt-get update && apt-get install -y {package}"


def _existing(folder: Path) -> Path:
    """`folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
