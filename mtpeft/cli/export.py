"""The command `export`: a finished run's model for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtpeft.cli.arguments import TRUST, Commands


def add(commands: Commands) -> None:
    """The parser of this file's command."""
    export = commands.add_parser("export", help="a run's task for timm, onnxruntime, torch.export or Hugging Face PEFT")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("out", type=Path, metavar="DIR", help="a folder that is empty or not there yet")
    export.add_argument("--to", required=True, choices=("timm", "onnx", "torch", "peft"))
    export.add_argument("--task", action="append", metavar="NAME", help="a task; several with --adapters separate")
    export.add_argument(
        "--adapters",
        choices=("merge", "keep", "separate"),
        help="fold adapters into the backbone, keep them, or make them inputs of one ONNX trunk (default: fold or keep)",
    )
    export.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    export.add_argument("--best", action="store_true", help="the model that validation data chose, of a joint run")
    export.add_argument("--trust-imports", action="store_true", help=TRUST)
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from mtpeft.exports.command import export_run

    written = export_run(
        options.folder,
        options.out,
        to=options.to,
        tasks=options.task,
        adapters=options.adapters,
        force=options.force,
        best=options.best,
        trust_imports=options.trust_imports,
    )
    print(f"{options.out / written.file}: largest difference to mtpeft's outputs {written.difference:.1e}")
    return 0
