"""The command `predict`: what a finished run says of pictures and videos."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtpeft.cli.arguments import TRUST, Commands


def add(commands: Commands) -> None:
    """The parser of this file's command."""
    predict = commands.add_parser("predict", help="classes or maps of pictures and videos by a finished run's model")
    predict.add_argument("folder", type=Path, metavar="RUN")
    predict.add_argument("inputs", nargs="+", metavar="INPUT", help="files, and folders with all that is below them")
    predict.add_argument("--task", action="append", metavar="NAME", help="a task; several are predicted in one pass")
    predict.add_argument("--out", type=Path, metavar="DIR", help="folder of predictions.csv or .json, and of maps")
    predict.add_argument("--top", type=int, default=5, metavar="K", help="classes listed of each input (default: 5)")
    predict.add_argument("--batch-size", type=int, metavar="N", help="default: that of the run's evaluation")
    predict.add_argument("--format", choices=("csv", "json"), help="default: csv with --out, else a table")
    predict.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    predict.add_argument("--best", action="store_true", help="the model that validation data chose, of a joint run")
    predict.add_argument("--trust-imports", action="store_true", help=TRUST)
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    from mtpeft.runs.predict_command import run

    return run(
        options.folder,
        options.inputs,
        tasks=options.task,
        out=options.out,
        top=options.top,
        batch_size=options.batch_size,
        form=options.format,
        device=options.device,
        best=options.best,
        trust_imports=options.trust_imports,
    )
