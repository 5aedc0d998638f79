"""The commands `evaluate`, `report`: what finished runs gave."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtpeft.cli.arguments import TRUST, Commands


def add(commands: Commands) -> None:
    """The parsers of this file's commands."""
    evaluate = commands.add_parser("evaluate", help="evaluate the final model of a run again and compare")
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument("--trust-imports", action="store_true", help=TRUST)
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="one page for a run, or for several side by side")
    report.add_argument("folders", type=Path, nargs="+", metavar="RUN")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the first run's folder)")
    report.set_defaults(run=_report)


def _evaluate(options: argparse.Namespace) -> int:
    from mtpeft.runs.folder import read_recipe

    if "tasks" in read_recipe(options.folder):
        from mtpeft.joint.command import evaluate as evaluate_joint

        return evaluate_joint(options.folder, options.trust_imports)
    from mtpeft.continual.command import evaluate

    return evaluate(options.folder, options.trust_imports)


def _report(options: argparse.Namespace) -> int:
    from mtpeft.evaluation import read
    from mtpeft.report import write_report

    results = [read(folder / "results.json" if folder.is_dir() else folder) for folder in options.folders]
    folders = [folder if folder.is_dir() else folder.parent for folder in options.folders]
    print(write_report(results, options.out or folders[0] / "report.html", folders))
    return 0
