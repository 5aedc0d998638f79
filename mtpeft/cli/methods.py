"""The registered methods for `mtpeft methods`: the list, one of them, and both for scripts."""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

from rich.console import Console

from mtpeft.backbones.anatomy import GROUPS, Anatomy
from mtpeft.backbones.site import PLACES
from mtpeft.cli.method_costs import COSTS, circumstances, measured
from mtpeft.cli.option_text import meanings
from mtpeft.errors import ConfigError
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.counting import weights_on
from mtpeft.methods import METHODS, MethodSpec
from mtpeft.methods.spec import TAXONOMY
from mtpeft.options import expected, options_of
from mtpeft.printing import print_list, print_text
from mtpeft.sharing import SHARINGS
from mtpeft.testing.backbones import tiny_backbone, vit_base

#: what a method can do -> letter in the list, and what it means
ABILITIES = {
    "merges": ("M", "merges: can be folded into the backbone's weights, which leaves a plain model"),
    "no_added_modules": ("A", "adds no module: trains weights the backbone already has"),
    "structure_preserving": ("S", "adds no operation: changes weights, inputs, tokens, keys or values"),
    "memory_efficient": ("G", "no gradient flows through the backbone"),
    "clips": ("C", "for clips: sees the frames of a clip together (the others see each alone)"),
}


def method_names() -> list[str]:
    """Names of all registered methods."""
    return list(METHODS)


def describe(name: str, anatomy: Anatomy) -> dict[str, Any]:
    """What the registry says of a method, as plain types.

    Keys: `name`; `taxonomy`; `summary` (first paragraph of its docstring); `paper`; `weights` (trained for one task on the
    backbone of `anatomy` with the default options, heads apart; None where it lacks the sites); `reason` (why, or None);
    `formula` (how many weights on a plain ViT, or None); `measured` (what it costs by `mtpeft.cli.method_costs`, or None);
    `sites` (a list of `kind` and `place`); `options` (a list of `name`, `takes`, `default`, `meaning`); `merges`,
    `no_added_modules`, `structure_preserving`, `memory_efficient`, `clips`, `identity_at_init` and `needs_fit` (True or False);
    `mixed_batches` ("product", "stacked", "split" or "shared weights"); `sharings` (names, the default first).
    Raises `UnknownNameError`.
    """
    return {**_overview(name, anatomy), "sharings": _sharings(METHODS.get(name))}


def _overview(name: str, anatomy: Anatomy) -> dict[str, Any]:
    spec = METHODS.get(name)
    config = spec.build_config({})
    weights, reason = None, None
    try:
        weights = weights_on(spec, config, anatomy)
    except ConfigError as error:
        reason = str(error)
    texts = meanings(spec.config)
    claims = spec.properties
    return {
        "name": name,
        "taxonomy": spec.taxonomy,
        "summary": _summary(spec),
        "paper": spec.paper,
        "weights": weights,
        "formula": spec.weights,
        "measured": measured(name),
        "reason": reason,
        "sites": [{"kind": kind, "place": {**PLACES, **GROUPS}.get(kind, kind)} for kind in config.sites],
        "options": [
            {
                "name": option,
                "takes": expected(declared.annotation),
                "default": _plain(declared.default),
                "meaning": texts[option],
            }
            for option, declared in options_of(spec.config).items()
        ],
        "merges": spec.folds,
        "no_added_modules": claims.no_added_modules,
        "structure_preserving": claims.structure_preserving,
        "memory_efficient": claims.memory_efficient,
        "clips": spec.for_clips,
        "identity_at_init": claims.identity_at_init,
        "needs_fit": spec.module.needs_fit(config),
        "mixed_batches": _mixed(spec),
    }


def _sharings(spec: MethodSpec) -> list[str]:
    """The sources that can hold the method's weights: those it names, and those that take it on a tiny ViT."""
    return [*spec.sharings, *(name for name in SHARINGS if name not in spec.sharings and _takes(name, spec))]


def _takes(sharing: str, spec: MethodSpec) -> bool:
    try:
        Attachment(spec, spec.build_config({}), _tiny(), sharing).weights.add_task("one")
    except ConfigError:
        return False
    return True


@functools.cache
def _tiny() -> Anatomy:
    return Anatomy(tiny_backbone("vit"))


def _mixed(spec: MethodSpec) -> str:
    if spec.stream is not None:
        return "split"
    if spec.own_weights or spec.siteless:
        return "shared weights"
    return "product" if spec.module.factored else "stacked"


#: what stands in formulas
SIZES = "L blocks, width d, MLP width m, n patches of p x p pixels, h heads, and the options"

MIXED = {
    "split": "one pass of the backbone serves all tasks; each task's own weights act at the ends of stages",
    "shared weights": "all tasks use the same weights of the backbone",
    "product": "the products of all tasks are added in one pass",
    "stacked": "every sample runs with its task's weights, stacked",
}


def _summary(spec: MethodSpec) -> str:
    return " ".join(inspect.cleandoc(spec.module.__doc__ or "").partition("\n\n")[0].split())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def print_methods(console: Console) -> None:
    """One line for each method, by taxonomy: its weights, what it can do, and where it is from."""
    anatomy = vit_base()
    rows = [_overview(name, anatomy) for name in METHODS]
    print_text(
        console,
        "Methods, with the weights each trains for one task on ViT-B/16 (default options, heads apart). "
        "`mtpeft methods NAME` shows one with its options.",
    )
    names = max(len(row["name"]) for row in rows)
    for taxonomy in TAXONOMY:
        members = [row for row in rows if row["taxonomy"] == taxonomy]
        if not members:
            continue
        console.print(f"\n{taxonomy}", style="bold")
        listed = []
        for row in members:
            marks = "".join(letter if row[key] else "·" for key, (letter, _) in ABILITIES.items())
            weights = "–" if row["weights"] is None else f"{row['weights']:,}"
            listed.append((row["name"].ljust(names), weights.rjust(10), marks, row["paper"].partition(" (")[0]))
        print_list(console, listed)
    console.print()
    print_list(console, [*ABILITIES.values(), ("–", "a plain ViT lacks the sites it acts at")], indent=0)


def print_method(name: str, console: Console) -> None:
    """Everything about one method. Raises `UnknownNameError`."""
    METHODS.get(name)
    row = describe(name, vit_base())
    console.print(f"{name} ({row['taxonomy']})", style="bold", highlight=False)
    print_text(console, row["summary"])
    console.print()
    counted = f"{row['weights']:,} for one task, heads apart" if row["reason"] is None else f"none: {row['reason']}"
    sites = "; ".join(f"{site['kind']} ({site['place']})" for site in row["sites"]) or "none: it acts at no site"
    claims = [text for key, (_, text) in ABILITIES.items() if row[key]]
    if row["identity_at_init"]:
        claims.append("starts at the backbone: the outputs before the first step are the backbone's own")
    if row["needs_fit"]:
        claims.append("looks at a task's training data first: runs do so, elsewhere manager.fit(task, loader)")
    first, *others = row["sharings"]
    print_list(
        console,
        [
            ("paper", row["paper"]),
            ("on ViT-B/16", counted),
            *([("by formula", f"{row['formula']}; {SIZES}")] if row["formula"] else []),
            ("sites", sites),
            ("sharings", ", ".join([f"{first} (default)", *others])),
            ("mixed batches", MIXED[row["mixed_batches"]]),
            *(("" if number else "properties", claim) for number, claim in enumerate(claims)),
        ],
    )
    if row["measured"] is not None:
        console.print("\nmeasured", style="bold")
        print_list(
            console,
            [(cost.title, f"{cost.shown(row['measured'][key])}: {cost.meaning}") for key, cost in COSTS.items()],
        )
        print_text(console, circumstances(), indent=2)
    console.print("\noptions", style="bold")
    for option in row["options"]:
        print_text(console, f"{option['name']} = {option['default']!r}", indent=2)
        print_text(console, option["takes"], indent=6)
        if option["meaning"]:
            print_text(console, option["meaning"], indent=6)


def as_json(name: str | None) -> str:
    """All methods as a list of `describe`, or one of them."""
    if name is not None:
        METHODS.get(name)
    anatomy = vit_base()
    found = [describe(n, anatomy) for n in METHODS] if name is None else describe(name, anatomy)
    return json.dumps(found, indent=2, ensure_ascii=False)
