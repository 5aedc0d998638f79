"""The page METHODS.md (`mtpeft methods --page`): what every registered method is, what it costs, and where it works.

Properties and numbers of weights come from the registry, costs from `benchmarks/methods.py`; where a method works is found out by
attaching it to small models of all families. The tests compare all but the costs with what is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.cli.method_costs import COSTS, circumstances, measured
from mtpeft.cli.method_scores import commands, learned, remarks
from mtpeft.cli.methods import ABILITIES, SIZES, describe
from mtpeft.errors import ConfigError
from mtpeft.methods import METHODS
from mtpeft.methods.spec import TAXONOMY
from mtpeft.testing.backbones import TINY, vit_base
from mtpeft.testing.case import Case
from mtpeft.testing.families import SPECIAL

HEAD = """# Methods

Written by `mtpeft methods --page > METHODS.md`. `mtpeft methods NAME` shows one method with its options.

"""
LEARNS = """
## What each learns

One task each on the embedded backbones, a few seconds of training, one rate for all (full fine-tuning has its own), and the
default options but where a command names others, as the defaults do not fit: mean ± standard deviation over the seeds, or one
seed. It shows that a method learns, not which is best: none was tuned. Methods for clips see images as clips of one frame,
those for several tasks have one.
"""
BELOW = """\\* worse than the linear probe on some task. What is known of why, by the same sweeps with another rate
(`--set training.optimizer.lr=5e-4`, or the one named), epochs or option:
"""
WORKS = """
## Where each works

Small models of every family, each attached with the default options: ✓ works, · is refused in one line that says why. On those of
the first table every method is held by the whole conformance harness, on those of the second by a forward and a backward pass.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers or marks."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def facts(anatomy: Anatomy) -> str:
    """What each method is, by taxonomy."""
    text = f"## What each is\n\nFormulas are for a plain ViT: {SIZES}.\n\n" + "".join(
        f"- **{letter}** {what}\n" for letter, what in ABILITIES.values()
    )
    for taxonomy in TAXONOMY:
        found = [describe(name, anatomy) for name in METHODS if METHODS.get(name).taxonomy == taxonomy]
        rows = [
            (
                f"`{row['name']}`",
                "–" if row["weights"] is None else f"{row['weights']:,}",
                f"`{row['formula']}`" if row["formula"] else "",
                *("✓" if row[key] else "" for key in ABILITIES),
                row["paper"],
            )
            for row in found
        ]
        head = (taxonomy, "weights on ViT-B/16", "by formula", *(letter for letter, _ in ABILITIES.values()), "paper")
        text += f"\n{table(head, rows)}"
    return text


def costs() -> str:
    """What each method costs, as measured."""
    rows = [
        (f"`{name}`", *(COSTS[key].shown(found.get(key)) for key in COSTS))
        for name in METHODS
        if (found := measured(name)) is not None
    ]
    meanings = "".join(f"- **{cost.title}** {cost.meaning}\n" for cost in COSTS.values())
    head = ("method", *(cost.title for cost in COSTS.values()))
    return f"\n## What each costs\n\n{circumstances()}\n\n{meanings}\n{table(head, rows)}"


def learns() -> str:
    """What each method learns on small tasks, as measured."""
    tasks, reasons = learned(), remarks()
    rows = []
    for name in METHODS:
        worse = any(task.worse(name) for task in tasks)
        mark = f"`{name}`" + (" *" if worse else "")
        rows.append((mark, *(task.shown(name) for task in tasks)))
    said = "".join(f"- `{name}`: {reasons[name]}\n" for name in METHODS if name in reasons)
    lines = "".join(f"    {command}\n" for command in commands())
    return f"{LEARNS}\n{lines}\n{table(('method', *(task.head for task in tasks)), rows)}\n{BELOW}\n{said}"


def works(name: str, family: str) -> bool:
    """Whether the method attaches to the small model of a family."""
    if family in TINY:
        return Case(name, family).claimed()
    try:
        mtpeft.attach(SPECIAL[family](), name, **Case(name, "vit").all_options)
    except ConfigError:
        return False
    return True


def grid(families: Iterable[str]) -> str:
    """Where each method works, of these families."""
    names = list(families)
    rows = [(f"`{name}`", *("✓" if works(name, family) else "·" for family in names)) for name in METHODS]
    return f"\n{table(('works on', *names), rows)}"


def claims(text: str) -> dict[str, set[str]]:
    """{method: the families it works on} as a page has it."""
    found: dict[str, set[str]] = {name: set() for name in METHODS}
    families: list[str] = []
    for line in text.splitlines():
        first, *cells = [cell.strip(" `") for cell in line.strip("|").split(" | ")]
        if first == "works on":
            families = cells
        elif families and first in found:
            found[first] |= {family for family, mark in zip(families, cells, strict=True) if mark == "✓"}
    return found


def page() -> str:
    """All of it."""
    return HEAD + facts(vit_base()) + costs() + learns() + WORKS + grid(TINY) + grid(SPECIAL)
