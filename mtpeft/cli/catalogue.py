"""The commands `methods`, `plugins`, `recipes`: what there is."""

from __future__ import annotations

import argparse

from mtpeft.cli.arguments import Commands

METHOD_KEYS = (
    "keys of --json: name, taxonomy, summary, paper, weights (null where ViT-B/16 lacks the sites), formula (or null), "
    "measured (costs, or null), reason (why, or null), sites (kind, place), options (name, takes, default, meaning), merges, "
    "no_added_modules, structure_preserving, memory_efficient, clips, identity_at_init, needs_fit, mixed_batches, sharings "
    "(the default first)"
)


def add(commands: Commands) -> None:
    """The parsers of this file's commands."""
    methods = commands.add_parser(
        "methods", help="the registered methods: taxonomy, weights on ViT-B/16, properties", epilog=METHOD_KEYS
    )
    methods.add_argument("name", nargs="?", metavar="NAME", help="show one method: options, sites, what it can do")
    form = methods.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="one name a line")
    form.add_argument("--json", action="store_true", help="for scripts: a list, or one object when NAME is given")
    form.add_argument(
        "--page", action="store_true", help="Markdown: what each is, costs, and works on (takes a minute)"
    )
    methods.set_defaults(run=_methods)

    plugins = commands.add_parser("plugins", help="what a continual recipe's key plugins may name, and what is refused")
    plugins.set_defaults(run=_plugins)

    recipes = commands.add_parser("recipes", help="the recipes that come with mtpeft")
    recipes.add_argument("--json", action="store_true", help="for scripts: a list of name, folder, summary")
    recipes.set_defaults(run=_recipes)


def _methods(options: argparse.Namespace) -> int:
    from mtpeft.cli import methods, methods_page
    from mtpeft.runs.console import open_console

    if options.json:
        print(methods.as_json(options.name))
    elif options.page:
        print(methods_page.page(), end="")
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
