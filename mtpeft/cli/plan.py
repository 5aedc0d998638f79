"""The command `plan`: what a run will need, before it runs."""

from __future__ import annotations

import argparse
from typing import Any

from mtpeft.cli.arguments import Commands, one_process
from mtpeft.errors import ConfigError

#: seconds that the timed steps of one run may take
SECONDS = 20.0


def add(commands: Commands) -> None:
    """The parser of the command."""
    plan = commands.add_parser(
        "plan",
        help="what a recipe's run will need: weights, FLOPs, memory, time, disk",
        description="Build what a recipe describes, train a few steps of it, and print shapes, trained weights, FLOPs, bytes, "
        "the peak of memory at the recipe's batch size, seconds of a step, an epoch and the run, and the disk it fills. "
        "Nothing is written or downloaded: weights are random, and data that are not on disk are made up where they can be.",
    )
    plan.add_argument("recipe", metavar="RECIPE", help="a name that `mtpeft recipes` lists, or a file")
    plan.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key: training.amp=bfloat16"
    )
    plan.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="what timed steps may take for each run; longer steps are timed on fewer samples (default: %(default)g)",
    )
    plan.add_argument("--json", action="store_true", help="for scripts: bytes and seconds as numbers")
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from mtpeft.runs.recipe import load_recipe

    if options.seconds <= 0:
        raise ConfigError(f"--seconds is {options.seconds:g}, expected more than 0")
    return show_plan(load_recipe(options.recipe, options.set), options.recipe, options.seconds, options.json)


def show_plan(recipe: dict[str, Any], name: str, seconds: float | None, as_json: bool = False) -> int:
    """Print the plan of a recipe of either engine; without `seconds`, steps are not timed (`--dry-run`)."""
    from mtpeft.runs.comparison import is_joint
    from mtpeft.runs.plan_text import tell
    from mtpeft.runs.recipe import find_recipe

    if find_recipe(name).parent.name == "pretrain":
        raise ConfigError(f"recipe {name} makes the weights of a backbone: plans are of runs that train tasks")
    one_process("a plan")
    if is_joint(recipe):
        from mtpeft.joint.plan import runs
    else:
        from mtpeft.continual.plan import runs
    return tell(runs(recipe), seconds, as_json)
