"""The commands `check-data`, `doctor`: what to look at before a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtpeft.cli.arguments import Commands


def add(commands: Commands) -> None:
    """The parsers of this file's commands."""
    check = commands.add_parser(
        "check-data", help="read all labels of a task, or images of a stream: types, wrong values"
    )
    check.add_argument("task", metavar="TASK", help="a task (scenes/depth) or a recipe with a stream, by name or path")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="data.root=/data/NYUD_MT")
    check.set_defaults(run=_check_data)

    doctor = commands.add_parser("doctor", help="check the environment against known traps")
    doctor.add_argument("--runs", type=Path, default=Path(), help="where runs will be written")
    doctor.set_defaults(run=_doctor)


def _check_data(options: argparse.Namespace) -> int:
    from mtpeft.runs.check_data import main as check

    return check(options.task, options.set)


def _doctor(options: argparse.Namespace) -> int:
    from mtpeft.doctor import main as check

    return check(options.runs)
