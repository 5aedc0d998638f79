"""The command `sweep`: many runs of one recipe."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from mtpeft.cli.arguments import Commands, one_process
from mtpeft.errors import ConfigError

EPILOG = (
    "Values are Python literals or texts, as with --set. method=NAME is that method with its defaults; the options of the "
    "recipe's own method go with it. method=all is every method that the recipe's backbone takes. The same command again goes "
    "on where it was stopped or killed, and tries again what failed."
)


def add(commands: Commands) -> None:
    """The parser of this file's command."""
    sweep = commands.add_parser(
        "sweep", help="run a recipe with many settings, seeds and class orders, side by side", epilog=EPILOG
    )
    sweep.add_argument("recipe", metavar="RECIPE", help="a name that `mtpeft recipes` lists, or a file")
    sweep.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V,V", help="values of a key: method=lora,ssf (repeatable)"
    )
    sweep.add_argument("--seeds", type=_count, default=1, metavar="N", help="runs of each setting (default: 1)")
    sweep.add_argument("--orders", type=_count, metavar="N", help="orders of classes for each seed: stream.order_seed")
    sweep.add_argument(
        "--select",
        choices=["validation"],
        help="choose the best setting of each method on data held out of the training part, and test that alone",
    )
    sweep.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key for all runs")
    sweep.add_argument("--out", type=Path, help="the folder of the sweep (default: runs/NAME-sweep)")
    sweep.add_argument("--parallel", type=_count, metavar="N", help="runs at a time (default: as many as fit)")
    sweep.add_argument("--cpus", type=_count, default=1, metavar="N", help="CPU threads of a run (default: 1)")
    sweep.add_argument(
        "--gpus", type=_share, default=0.0, metavar="N", help="GPUs of a run, 0.5 say (default: 0, on the CPU)"
    )
    sweep.add_argument("--address", help="a Ray cluster: ray://HOST:PORT, or auto (default: this machine)")
    sweep.set_defaults(run=_sweep, resumes=True)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of GPUs")
    return number


def _sweep(options: argparse.Namespace) -> int:
    from rich.console import Console

    from mtpeft.files import check_writable
    from mtpeft.report.sweep import print_sweep, write_sweep_report
    from mtpeft.runs.recipe import find_recipe, load_recipe
    from mtpeft.runs.sweep.command import run_sweep, unfinished
    from mtpeft.runs.sweep.every_method import spelled
    from mtpeft.runs.sweep.grid import Axis
    from mtpeft.runs.sweep.plan import plan_sweep
    from mtpeft.runs.sweep.pool import Resources, check_installed
    from mtpeft.runs.user_code import import_user_code

    one_process("a sweep")
    if find_recipe(options.recipe).parent.name == "pretrain":
        raise ConfigError(f"recipe {options.recipe} pre-trains a backbone; a sweep is of continual or joint recipes")
    recipe = load_recipe(options.recipe, options.set)
    import_user_code(recipe.get("imports", []))
    axes, refused = spelled([Axis.parse(text) for text in options.grid], recipe)
    plan = plan_sweep(recipe, axes, options.seeds, options.orders, options.select is not None)
    if str(recipe.get("device", "")).startswith("cuda") and not options.gpus:
        raise ConfigError(f"recipe {plan.name} trains on device={recipe['device']}: give each run --gpus 1, or a share")
    path = options.out or Path(os.environ.get("MTPEFT_RUNS", "runs")) / f"{plan.name}-sweep"
    check_installed()
    waiting = [trial.recipe for part in ("test", "validation") for trial in unfinished(plan.trials(part), path)]
    check_writable(path)
    if waiting:
        _check(waiting, choose=plan.select is not None)
    console = Console(file=sys.stdout)
    for name, reason in refused.items():
        console.print(f"left out: {name}: {reason}", markup=False, soft_wrap=True)
    resources = Resources(options.cpus, options.gpus, options.parallel)
    content = run_sweep(plan, path, train, resources, options.address, console)
    if content is None:
        console.print("interrupted; the same command goes on from here")
        return 130
    print_sweep(content, console)
    console.print(f"report: {write_sweep_report(content, path / 'report.html')}", soft_wrap=True)
    runs = [run for setting in content["settings"] for part in ("validation", "test") for run in setting[part]]
    return 1 if any(run["reason"] is not None for run in runs) else 0


def train(recipe: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """One run, in a worker process; its results, None when it was interrupted."""
    from rich.console import Console

    from mtpeft.runs.comparison import is_joint

    if is_joint(recipe):
        from mtpeft.joint.command import run_in as run_joint

        return run_joint(recipe, folder, Console(quiet=True))
    from mtpeft.continual.command import run_in

    return run_in(recipe, folder, Console(quiet=True))


def _check(recipes: list[dict[str, Any]], choose: bool) -> None:
    """Read the methods and the training of all runs, and build the first: `ConfigError` or `DataError` as a run has it.

    `choose`: the runs must have one figure to be compared by.
    """
    from mtpeft.manager.attach import resolve_methods
    from mtpeft.options import Section
    from mtpeft.runs.comparison import is_joint

    joint = is_joint(recipes[0])
    training: Any = importlib.import_module(f"mtpeft.{'joint' if joint else 'continual'}.training")
    for recipe in recipes:
        top = Section(recipe, str(recipe["name"]))
        resolve_methods(top.take("method"), recipe.get("sharing"))
        training.Training.read(top.section("training"))
    (_build_joint if joint else _build_continual)({**recipes[0], "device": "cpu"}, choose)


def _build_continual(recipe: dict[str, Any], choose: bool) -> None:
    from mtpeft.continual.experiment import Experiment

    tasks = Experiment(recipe).measured.matrix.tasks
    if choose and len({(task.metric, task.unit, task.higher_is_better) for task in tasks}) > 1:
        raise ConfigError(_INCOMPARABLE)


def _build_joint(recipe: dict[str, Any], choose: bool) -> None:
    from mtpeft.joint.experiment import JointExperiment
    from mtpeft.joint.separate import separate_recipes

    one = next(iter(separate_recipes(recipe).values())) if recipe.get("separate") else recipe
    experiment = JointExperiment(one)
    alike = len({(kind.metric, kind.unit) for kind in experiment.model.kinds.values()}) == 1
    if choose and not alike and any(value is None for value in experiment.single_task.values()):
        raise ConfigError(_INCOMPARABLE)


_INCOMPARABLE = (
    "--select needs one figure to compare settings by: tasks that are measured alike, or single-task values (key "
    "single_task) for a multi-task delta"
)
