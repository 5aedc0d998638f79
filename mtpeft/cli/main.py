"""The command line. Heavy modules are imported inside the commands, so that `mtpeft --help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mtpeft._version import __version__
from mtpeft.cli import catalogue, checks, completion, export, plan, predict, results, runs, sweep, training
from mtpeft.cli.voice import first_speaks
from mtpeft.errors import MtpeftError
from mtpeft.runs.threads import wait_asleep

#: the files of commands, in the order of the help
FILES = (catalogue, plan, training, sweep, runs, results, predict, export, checks, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (checks failed), 2 (a mistake in the input), 130 (interrupted)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    wait_asleep()
    with first_speaks():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except MtpeftError as error:
        print(f"mtpeft: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = "; the same command goes on from the last checkpoint" if getattr(options, "resumes", False) else ""
        print(f"mtpeft: interrupted{more}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtpeft", description="Continual and multi-task learning with parameter-efficient fine-tuning for vision."
    )
    parser.add_argument("--version", action="version", version=f"mtpeft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for file in FILES:
        file.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
