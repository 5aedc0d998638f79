"""Plans as text for a person, or as JSON for a script."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from mtpeft.manager.counting import render_table
from mtpeft.manager.memory import Memory
from mtpeft.printing import print_text, size_text
from mtpeft.runs.console import open_console
from mtpeft.runs.plan import Plan, Run, measure


def tell(runs: Iterable[Run], seconds: float | None, as_json: bool = False) -> int:
    """Measure and print every run, one after another; returns the exit code.

    JSON is {"rows": [a plan each], "seconds": of all (null where one is not known), "disk": bytes of all}.
    """
    console, plans = open_console(), []
    for run in runs:
        plans.append(measure(run, seconds))
        if not as_json:
            _print(run, plans[-1], console)
    whole = [plan["seconds"]["run"] if plan["seconds"] else None for plan in plans]
    total: dict[str, Any] = {
        "seconds": None if None in whole else sum(whole),
        "disk": sum(plan["disk"]["run"] for plan in plans),
    }
    if as_json:
        print(json.dumps({"rows": plans, **total}, indent=1, sort_keys=True))
    elif len(plans) > 1:
        time = "" if total["seconds"] is None else f"about {time_text(total['seconds'])}, "
        print_text(console, f"all {len(plans)} runs: {time}{size_text(total['disk'])} on disk")
    return 0


def time_text(seconds: float) -> str:
    """A duration in the unit that suits it: "12 ms", "3.4 s", "25 min", "7.5 h"."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _print(run: Run, plan: Plan, console: Console) -> None:
    def show(text: str, indent: int = 0) -> None:
        print_text(console, text, indent)

    clips = any(len(part["input"]) == 5 for part in plan["parts"])
    data = f"made-up {'clips' if clips else 'data'} and " if plan["made_up"] else ""
    what = "a dry run" if plan["seconds"] is None else "a plan"
    show(f"{plan['name']}: {what} with {data}random weights, without a run folder")
    if plan["made_up"]:
        show(f"made up, as {plan['made_up']}", 2)
    size = " x ".join(map(str, plan["input"]))
    show(f"backbone: {plan['backbone']}, frames or images of {size}, in {plan['precision']} on {plan['device']}")
    show(f"{plan['engine']} run of {len(plan['tasks'])} task(s), batches of {_batch(plan)}")
    for part in plan["parts"]:
        _print_part(part, plan, show)
    memories = {task: Memory(**facts["bytes"]) for task, facts in plan["tasks"].items()}
    table = render_table(run.manager, console.width, memories, plan["optimizer"])
    console.print(table, highlight=False, soft_wrap=True, markup=False)
    memory, disk = plan["memory"], plan["disk"]
    free = "" if memory["free"] is None else f"; {size_text(memory['free'])} free now"
    show(
        f"memory: about {size_text(memory['peak'])} of tensors at the most, {size_text(memory['weights'])} of them weights"
        f"{free}. The program, its libraries and the data come on top."
    )
    if memory["free"] is not None and memory["peak"] > memory["free"]:
        show("More than is free: lower training.batch_size and raise training.accumulate, which trains the same.")
    if plan["cache_left_out"]:
        show(
            "without the recipe's feature cache, with which steps and evaluations are quicker and the cache takes disk."
        )
    if plan["plugins"]:
        names = ", ".join(plan["plugins"])
        show(f"not counted: what {names} may do between tasks, and samples or copies of weights kept for later.")
    if plan["seconds"] is not None:
        _print_time(plan, show)
    show(
        f"disk: checkpoint {size_text(disk['checkpoint'])}, weights at the end {size_text(disk['model'])}, the run's folder "
        f"up to {size_text(disk['run'])} without log and pictures"
    )


def _batch(plan: Plan) -> str:
    accumulated = f", {plan['accumulate']} to a step" if plan["accumulate"] > 1 else ""
    return f"{plan['batch_size']}{accumulated}"


def _print_part(part: Plan, plan: Plan, show: Any) -> None:
    shape = tuple(part["input"])
    one, first = "clip" if len(shape) == 5 else "image", part["tasks"][0]
    alone = plan["engine"] == "continual"
    more = f"; {len(part['tasks'])} tasks like it" if alone and len(part["tasks"]) > 1 else ""
    name = first if alone else ", ".join(part["tasks"])
    show(f"{name}: input {shape}, {shape[0]} of a batch of {plan['batch_size']}{more}")
    flops = f"{part['flops'] / 1e9:.4g} GFLOPs for one {one} forward"
    for task, output in part["outputs"].items():
        told = [f"output {tuple(output)}", *([f"loss {part['losses'][task]:.4f}"] if task in part["losses"] else [])]
        show("; ".join([*told, flops]) if alone else f"{task}: {'; '.join(told)}", 2)
    if not alone:
        show(flops, 2)
    memory = part["memory"]
    kept, gradients, state = (size_text(memory[key]) for key in ("activations", "gradients", "optimizer"))
    show(
        f"a batch keeps {kept} for backward; gradients {gradients}, {plan['optimizer']}'s state {state}; at the most "
        f"{size_text(memory['peak'])} with the weights",
        2,
    )
    steps = "steps: not known without the files" if part["steps"] is None else f"{part['steps']:,} steps"
    epoch = "" if part["epoch_steps"] is None else f", {part['epoch_steps']:,} for all training data once"
    time, seconds = "", part["seconds"]
    if seconds is not None:
        measured = "" if seconds["samples"] == plan["batch_size"] else f", from steps of {seconds['samples']}"
        time = f"; {time_text(seconds['step'])} a step ({time_text(seconds['read'])} to read its data{measured})"
        if seconds["epoch"] is not None:
            time += f", {time_text(seconds['epoch'])} an epoch"
        if seconds["peak_bytes"] is not None:
            time += f"; measured at the most {size_text(seconds['peak_bytes'])}"
    show(f"{steps}{epoch}{time}", 2)


def _print_time(plan: Plan, show: Any) -> None:
    seconds = plan["seconds"]
    if seconds["training"] is None:
        show("time: not known, as the number of steps is not")
        return
    evaluation = (
        "evaluations not counted"
        if seconds["evaluation"] is None
        else f"evaluations {time_text(seconds['evaluation'])}"
    )
    whole = seconds["training"] + (seconds["evaluation"] or 0)
    show(
        f"time: about {time_text(whole)} on this machine as it is now: training {time_text(seconds['training'])}, {evaluation}"
    )
