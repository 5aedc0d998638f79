"""The commands `train`, `continual`, `demo`: runs of recipes."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtpeft.cli.arguments import Commands, one_process
from mtpeft.errors import ConfigError


def add(commands: Commands) -> None:
    """The parsers of this file's commands."""
    train = commands.add_parser(
        "train", help="run a recipe with the engine its folder names (joint, continual, pretrain)"
    )
    _recipe_options(train)
    train.set_defaults(run=_train, resumes=True)

    continual = commands.add_parser("continual", help="train a recipe's tasks one after another")
    _recipe_options(continual)
    continual.set_defaults(run=_continual, resumes=True)

    demo = commands.add_parser("demo", help="compare ways of learning five tasks in a row, with a report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs (default: runs/demo)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key in every recipe")
    demo.set_defaults(run=_demo, resumes=True)


def _recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a name that `mtpeft recipes` lists, or a file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key: training.epochs=3"
    )
    parser.add_argument("--out", type=Path, help="the run folder (default: runs/NAME-seedN)")
    parser.add_argument("--resume", action="store_true", help="go on from a checkpoint, and fail when there is none")
    parser.add_argument("--fresh", action="store_true", help="discard an earlier run in the same folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, train a few steps of few samples, print shapes, counts, FLOPs and bytes; no run folder "
        "(`mtpeft plan` tells times as well)",
    )


def _train(options: argparse.Namespace) -> int:
    from mtpeft.runs.comparison import is_joint
    from mtpeft.runs.recipe import find_recipe, load_recipe

    if options.dry_run:
        return _dry_run(options)
    recipe = find_recipe(options.recipe)
    if recipe.parent.name == "pretrain":  # the folder of a recipe is its engine
        from mtpeft.pretraining.command import main as pretrain

        one_process("pretraining")
        changes = ["--set", *options.set] if options.set else []
        return pretrain([str(recipe), *changes])
    values = load_recipe(str(recipe), options.set)
    if recipe.parent.name == "joint" or is_joint(values):  # a file of the user's own may lie anywhere
        from mtpeft.joint.command import run

        return run(values, options.out, resume=options.resume, fresh=options.fresh)
    return _continual(options)


def _dry_run(options: argparse.Namespace) -> int:
    from mtpeft.cli.plan import show_plan
    from mtpeft.runs.recipe import load_recipe

    if options.out or options.resume or options.fresh:
        raise ConfigError("--dry-run has no run folder: leave out --out, --resume and --fresh")
    return show_plan(load_recipe(options.recipe, options.set), options.recipe, None)


def _continual(options: argparse.Namespace) -> int:
    from mtpeft.runs.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    if options.dry_run:
        from mtpeft.continual.command import rows_of

        rows_of(recipe)  # refuses what is not for this engine
        return _dry_run(options)
    from mtpeft.continual.command import run

    return run(recipe, options.out, resume=options.resume, fresh=options.fresh)


def _demo(options: argparse.Namespace) -> int:
    from mtpeft.continual.command import demo

    return demo(options.out, options.set)
