"""Checks of the environment: each known incompatibility between the dependencies, and what to type against it.

Nothing heavy is imported: versions come from the metadata of the installed packages, torch's build from its
version file. So the checks also work, and stay quick, where an import would crash.
"""

from __future__ import annotations

from pathlib import Path

from mtpeft.doctor import machine, packages
from mtpeft.doctor.check import Check, ranged

__all__ = ["Check", "checks", "main"]


def checks(run_folder: Path) -> list[Check]:
    """All checks, in the order of the printed table; `run_folder` is where runs will be written (need not exist)."""
    return [
        machine.python(),
        ranged("torch", "torch"),
        packages.torchvision(),
        machine.accelerator(),
        ranged("timm", "timm", note="fused attention skips attention hooks; mtpeft has forwards of its own there"),
        ranged("numpy", "numpy"),
        packages.libraries(),
        ranged("avalanche", "avalanche-lib", note="its save_checkpoint fails on this torch; mtpeft writes its own"),
        packages.distutils(),
        packages.mmengine(),
        packages.mmengine_bases(),
        packages.rivals(),
        packages.mmsegmentation(),
        packages.mmcv(),
        packages.decord(),
        machine.weights(),
        machine.fashion_mnist(),
        machine.chromium(),
        machine.run_folder_writable(run_folder),
        machine.disk_space(run_folder),
        machine.threads(),
    ]


def main(run_folder: Path) -> int:
    """Print all checks and the remedies under it; 1 when a check fails, else 0."""
    from rich.console import Console

    from mtpeft.printing import print_list

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red", "absent": "dim"}
    found = checks(run_folder)
    console = Console()
    console.print("mtpeft doctor", style="italic")
    print_list(console, [(check.status, check.name, check.found) for check in found], styles=colours)
    for check in found:
        if check.remedy:  # outside the table, and never wrapped: lines to paste
            console.print(f"# {check.name}\n{check.remedy}", soft_wrap=True, markup=False, highlight=False)
    failed = sum(check.status == "fail" for check in found)
    console.print(f"{len(found)} checks, {failed} failed")
    return 1 if failed else 0
