"""The lists the command line prints: methods with their weights on ViT-B/16, plugins, and recipes with their first line."""

from __future__ import annotations

import ast
from typing import Any

from rich.console import Console
from rich.table import Table

from mtpeft.errors import ConfigError
from mtpeft.runs.paths import recipes_folder
from mtpeft.runs.recipe import recipe_names


def method_names() -> list[str]:
    """Names of all registered methods."""
    from mtpeft.methods import METHODS

    return list(METHODS)


def count_on_vit_base(name: str, anatomy: Any) -> int | None:
    """Weights a method with its default config trains for one task on ViT-B/16 at 224 pixels, heads excluded.

    None where a ViT lacks what the method acts on.
    """
    from mtpeft.hooks.attachment import Attachment
    from mtpeft.methods import METHODS

    spec = METHODS.get(name)
    config = spec.build_config({})
    try:
        attachment = Attachment(spec, config, anatomy, spec.sharings[-1])
    except ConfigError:
        return None
    attachment.weights.add_task("one")
    owned = spec.owned(config, anatomy) if spec.owned is not None else ()
    modules = attachment.weights.modules_of("one")
    added = sum(p.numel() for module in modules for p in module.parameters())
    return added + sum(anatomy.backbone.get_parameter(name).numel() for name in owned)


def print_methods() -> None:
    """A table of the registry. The counts are made by attaching each method to a ViT-B/16."""
    from mtpeft.backbones.anatomy import Anatomy
    from mtpeft.manager.attach import create_backbone
    from mtpeft.methods import METHODS

    anatomy = Anatomy(create_backbone("vit_base_patch16_224", pretrained=False))
    table = Table(title="Methods (weights on ViT-B/16 at the default config, heads excluded)", title_justify="left")
    for column in (
        "method",
        "taxonomy",
        "weights",
        "no added\nmodules",
        "structure\npreserving",
        "merges",
        "no gradient\nin backbone",
        "paper",
    ):
        table.add_column(column, justify="right" if column == "weights" else "left")
    for name in METHODS:
        spec = METHODS.get(name)
        p = spec.properties
        marks = [
            "yes" if flag else ""
            for flag in (p.no_added_modules, p.structure_preserving, spec.folds, p.memory_efficient)
        ]
        weights = count_on_vit_base(name, anatomy)
        table.add_row(name, spec.taxonomy, "no such sites" if weights is None else f"{weights:,}", *marks, spec.paper)
    Console().print(table)


def print_plugins() -> None:
    """What a continual recipe's key `plugins` may name, how such a run resumes, and what is refused for which reason."""
    from mtpeft.continual.allowed import ALLOWED, REFUSED, RESUMED
    from mtpeft.runs.console import open_console

    table = Table(title="Plugins of continual recipes", title_justify="left")
    for column in ("name", "what it does", "dense tasks", "a killed run goes on"):
        table.add_column(column, no_wrap=column == "name")
    for name, rule in ALLOWED.items():
        table.add_row(name, rule.text, "" if rule.not_dense else "yes", RESUMED[rule.resumes])
    console = open_console()
    console.print(table)
    refused = Table(title="Avalanche's other plugins, refused", title_justify="left")
    refused.add_column("name", no_wrap=True)
    refused.add_column("why")
    for name, reason in REFUSED.items():
        refused.add_row(name, reason)
    console.print(refused)


def print_recipes() -> None:
    """Names of the recipes and what each is."""
    table = Table(title="Recipes", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for name in recipe_names():
        tree = ast.parse((recipes_folder() / f"{name}.py").read_text())
        table.add_row(name, (ast.get_docstring(tree) or "").partition("\n")[0])
    Console().print(table)
