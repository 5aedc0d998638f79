"""The command line. Heavy modules are imported inside the commands, so that `mtpeft --help` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mtpeft._version import __version__
from mtpeft.cli.voice import first_speaks
from mtpeft.errors import ConfigError, MtpeftError

METHOD_KEYS = (
    "keys of --json: name, taxonomy, summary, paper, weights (null where ViT-B/16 lacks the sites), reason (why, or "
    "null), sites (kind, place), options (name, takes, default, meaning), merges, no_added_modules, "
    "structure_preserving, memory_efficient, clips, identity_at_init, mixed_batches, sharings (the default first)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (checks failed), 2 (a mistake in the input), 130 (interrupted)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with first_speaks():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except MtpeftError as error:
        print(f"mtpeft: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mtpeft: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtpeft", description="Continual and multi-task learning with parameter-efficient fine-tuning for vision."
    )
    parser.add_argument("--version", action="version", version=f"mtpeft {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    methods = commands.add_parser(
        "methods", help="the registered methods: taxonomy, weights on ViT-B/16, properties", epilog=METHOD_KEYS
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="show one method: options, sites, what it can do")
    form = methods.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="one name a line")
    form.add_argument("--json", action="store_true", help="for scripts: a list, or one object when NAME is given")
    methods.set_defaults(run=_methods)

    plugins = commands.add_parser("plugins", help="what a continual recipe's key plugins may name, and what is refused")
    plugins.set_defaults(run=_plugins)

    recipes = commands.add_parser("recipes", help="the recipes that come with mtpeft")
    recipes.add_argument("--json", action="store_true", help="for scripts: a list of name, folder, summary")
    recipes.set_defaults(run=_recipes)

    train = commands.add_parser(
        "train", help="run a recipe with the engine its folder names (joint, continual, pretrain)"
    )
    _recipe_options(train)
    train.set_defaults(run=_train)

    continual = commands.add_parser("continual", help="train a recipe's tasks one after another")
    _recipe_options(continual)
    continual.set_defaults(run=_continual)

    demo = commands.add_parser("demo", help="compare ways of learning five tasks in a row, with a report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs (default: runs/demo)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key in every recipe")
    demo.set_defaults(run=_demo)

    evaluate = commands.add_parser("evaluate", help="evaluate the final model of a run again and compare")
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="one page for a run, or for several side by side")
    report.add_argument("folders", type=Path, nargs="+", metavar="RUN")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the first run's folder)")
    report.set_defaults(run=_report)

    check = commands.add_parser(
        "check-data", help="read all labels of a task, or images of a stream: types, wrong values"
    )
    check.add_argument("task", metavar="TASK", help="a task (scenes/depth) or a recipe with a stream, by name or path")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="data.root=/data/NYUD_MT")
    check.set_defaults(run=_check_data)

    doctor = commands.add_parser("doctor", help="check the environment against known traps")
    doctor.add_argument("--runs", type=Path, default=Path(), help="where runs will be written")
    doctor.set_defaults(run=_doctor)
    return parser


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
        help="build everything, train one step (on made-up clips), print shapes, counts and FLOPs; no run folder",
    )


def _methods(options: argparse.Namespace) -> int:
    from mtpeft.cli import methods
    from mtpeft.runs.console import open_console

    if options.json:
        print(methods.as_json(options.name))
    elif options.names:
        print("\n".join(methods.method_names()))
    elif options.name is not None:
        methods.print_method(options.name, open_console())
    else:
        methods.print_methods(open_console())
    return 0


def _plugins(options: argparse.Namespace) -> int:
    from mtpeft.cli.listing import print_plugins
    from mtpeft.runs.console import open_console

    print_plugins(open_console())
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from mtpeft.cli.listing import print_recipes, recipes_json
    from mtpeft.runs.console import open_console

    if options.json:
        print(recipes_json())
    else:
        print_recipes(open_console())
    return 0


def _train(options: argparse.Namespace) -> int:
    from mtpeft.runs.comparison import is_joint
    from mtpeft.runs.recipe import find_recipe, load_recipe

    recipe = find_recipe(options.recipe)
    if recipe.parent.name == "pretrain":  # the folder of a recipe is its engine
        from mtpeft.pretraining.command import main as pretrain

        _refuse_dry_run(options, "pretrain")
        _one_process("pretraining")
        changes = ["--set", *options.set] if options.set else []
        return pretrain([str(recipe), *changes])
    values = load_recipe(str(recipe), options.set)
    if recipe.parent.name == "joint" or is_joint(values):  # a file of the user's own may lie anywhere
        from mtpeft.joint.command import run

        _refuse_dry_run(options, "joint")
        return run(values, options.out, resume=options.resume, fresh=options.fresh)
    return _continual(options)


def _refuse_dry_run(options: argparse.Namespace, engine: str) -> None:
    if options.dry_run:
        raise ConfigError(f"recipe {options.recipe}: --dry-run is for continual recipes, this is a {engine} one")


def _continual(options: argparse.Namespace) -> int:
    from mtpeft.runs.recipe import load_recipe

    _one_process("a continual run")
    recipe = load_recipe(options.recipe, options.set)
    if options.dry_run:
        if options.out or options.resume or options.fresh:
            raise ConfigError("--dry-run has no run folder: leave out --out, --resume and --fresh")
        from mtpeft.continual.dry_run import dry_run

        return dry_run(recipe)
    from mtpeft.continual.command import run

    return run(recipe, options.out, resume=options.resume, fresh=options.fresh)


def _one_process(what: str) -> None:
    if (number := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(f"{what} is one process's work, torchrun started {number}: run the command without torchrun")


def _demo(options: argparse.Namespace) -> int:
    _one_process("the demo")
    from mtpeft.continual.command import demo

    return demo(options.out, options.set)


def _evaluate(options: argparse.Namespace) -> int:
    from mtpeft.runs.folder import read_recipe

    if "tasks" in read_recipe(options.folder):
        from mtpeft.joint.command import evaluate as evaluate_joint

        return evaluate_joint(options.folder)
    from mtpeft.continual.command import evaluate

    return evaluate(options.folder)


def _report(options: argparse.Namespace) -> int:
    from mtpeft.evaluation import read
    from mtpeft.report import write_report

    results = [read(folder / "results.json" if folder.is_dir() else folder) for folder in options.folders]
    folders = [folder if folder.is_dir() else folder.parent for folder in options.folders]
    print(write_report(results, options.out or folders[0] / "report.html", folders))
    return 0


def _check_data(options: argparse.Namespace) -> int:
    from mtpeft.runs.check_data import main as check

    return check(options.task, options.set)


def _doctor(options: argparse.Namespace) -> int:
    from mtpeft.doctor import main as check

    return check(options.runs)


if __name__ == "__main__":
    sys.exit(main())
