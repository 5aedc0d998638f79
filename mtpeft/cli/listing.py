"""The lists the command line prints of plugins, and of recipes with their first line."""

from __future__ import annotations

import ast
import json
from itertools import groupby

from rich.console import Console

from mtpeft.printing import print_list
from mtpeft.runs.paths import recipes_folder
from mtpeft.runs.recipe import recipe_names


def print_plugins(console: Console) -> None:
    """What a continual recipe's key `plugins` may name, how such a run resumes, and what is refused for which reason."""
    from mtpeft.continual.allowed import ALLOWED, REFUSED, RESUMED

    console.print("Plugins of continual recipes", style="bold")
    rows = []
    for name, rule in ALLOWED.items():
        dense = "not for dense tasks" if rule.not_dense else "for dense tasks too"
        rows.append((name, f"{rule.text}; {dense}; a killed run goes on {RESUMED[rule.resumes]}"))
    print_list(console, rows)
    console.print("\nAvalanche's other plugins, refused", style="bold")
    print_list(console, list(REFUSED.items()))


def recipes() -> list[dict[str, str]]:
    """Every recipe that comes with mtpeft: its `name`, its `folder` (which is its engine) and its `summary`."""
    found = []
    for name in recipe_names():
        tree = ast.parse((recipes_folder() / f"{name}.py").read_text(encoding="utf-8"))
        summary = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
        found.append({"name": name, "folder": name.rpartition("/")[0], "summary": summary})
    return found


def print_recipes(console: Console) -> None:
    """Names of the recipes by folder, and what each is."""
    found = recipes()
    longest = max(len(recipe["name"].rpartition("/")[2]) for recipe in found)
    for number, (folder, members) in enumerate(groupby(found, key=lambda recipe: recipe["folder"])):
        console.print(f"{chr(10) if number else ''}{folder}", style="bold", highlight=False)
        rows = [(recipe["name"].rpartition("/")[2].ljust(longest), recipe["summary"]) for recipe in members]
        print_list(console, rows)


def recipes_json() -> str:
    """The list of `recipes` for scripts."""
    return json.dumps(recipes(), indent=2, ensure_ascii=False)
