"""The command `completion`: the script by which a shell completes `mtpeft`, and the words it asks for.

The script asks `mtpeft completion words LINE` at every tab, so that new recipes and runs are known; nothing heavy is
imported for that.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from mtpeft.cli.arguments import Commands

SCRIPTS = {
    "bash": """\
_mtpeft() {
    local IFS=$'\\n'
    COMPREPLY=($(mtpeft completion words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    local current="${COMP_LINE:0:COMP_POINT}"; current="${current##* }"
    if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*=}"}"}")
    fi
    [[ ${COMPREPLY[0]-} == *= || ${COMPREPLY[0]-} == */ ]] && compopt -o nospace
}
complete -o default -F _mtpeft mtpeft
""",
    "zsh": """\
#compdef mtpeft
_mtpeft() {
    local -a found
    found=(${(f)"$(mtpeft completion words "$LBUFFER" 2>/dev/null)"})
    if (( $#found )); then compadd -Q -S '' -- $found; else _files; fi
}
compdef _mtpeft mtpeft
""",
    "fish": """\
complete -c mtpeft -f -a "(mtpeft completion words (commandline -cp) 2>/dev/null; or __fish_complete_path)"
""",
}
#: how a method says its name to the registry
REGISTERED = re.compile(r"@register\(\s*\"(\w+)\"|\bregister\(\s*\"(\w+)\"")


def add(commands: Commands) -> None:
    """The parser of this file's command."""
    completion = commands.add_parser(
        "completion",
        help="the script that completes commands, recipes, methods and runs in a shell",
        epilog='bash: eval "$(mtpeft completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit; '
        "fish: mtpeft completion fish > ~/.config/fish/completions/mtpeft.fish",
    )
    completion.add_argument("shell", choices=[*SCRIPTS, "words"], metavar="SHELL", help="bash, zsh or fish")
    completion.add_argument("line", nargs="?", default="", help=argparse.SUPPRESS)
    completion.set_defaults(run=functools.partial(_completion, commands))


def _completion(commands: Commands, options: argparse.Namespace) -> int:
    if options.shell != "words":
        print(SCRIPTS[options.shell], end="")
        return 0
    found = words(commands.choices, options.line)
    print("\n".join(found))
    return 0 if found else 1


def words(commands: Mapping[str, argparse.ArgumentParser], line: str) -> list[str]:
    """What the last word of a line that begins with `mtpeft` can become; nothing where a file's name is as good."""
    try:
        given = shlex.split(line)
    except ValueError:  # a quote that is still open
        return []
    current = "" if not line or line[-1].isspace() else given.pop()
    given = given[1:]
    if not given:
        return _matching([*commands, "--help", "--version"], current)
    command = commands.get(given[0])
    if command is None:
        return []
    before = next((a for a in command._actions if given[-1] in a.option_strings and a.nargs != 0), None)
    if before is not None:
        return _values(before, current)
    if current.startswith("-"):
        return _matching(_options(command), current)
    places = [action for action in command._actions if not action.option_strings]
    passed = _positionals(command, given[1:])
    if not places or (passed >= len(places) and places[-1].nargs not in ("*", "+")):
        return []
    return _values(places[min(passed, len(places) - 1)], current)


def _positionals(command: argparse.ArgumentParser, given: list[str]) -> int:
    """How many of the words are no option and no option's value."""
    valued = {name for action in command._actions if action.nargs != 0 for name in action.option_strings}
    return sum(not w.startswith("-") and (i == 0 or given[i - 1] not in valued) for i, w in enumerate(given))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def _values(action: argparse.Action, current: str) -> list[str]:
    """What an argument can be."""
    if action.choices is not None:
        return _matching([str(choice) for choice in action.choices if choice != "words"], current)
    if action.metavar == "RECIPE":
        from mtpeft.runs.recipe import recipe_names

        names = recipe_names()
        return _matching([*names, *(name.rpartition("/")[2] for name in names)] if current else names, current)
    if action.metavar == "NAME" and action.dest == "name":
        return _matching(method_names(), current)
    if action.metavar == "RUN":
        return run_names(current)
    if action.dest in ("grid", "set"):
        key, sign, value = current.partition("=")
        if sign and key in ("method", "method.name"):
            done, comma, last = value.rpartition(",")
            return [f"{key}={done}{comma}{name}" for name in _matching(method_names(), last)]
        return [] if sign else _matching(["method=", "training.optimizer.lr=", "seed="], current)
    return []


def method_names() -> list[str]:
    """Names of the methods that come with mtpeft, out of the text of their files."""
    folder = Path(__file__).parents[1] / "methods"
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*/*.py"))]
    return sorted({a or b for text in texts for a, b in REGISTERED.findall(text)})


def run_names(current: str) -> list[str]:
    """Run folders whose path begins with `current`; without it those in runs/ (or MTPEFT_RUNS), and folders on the way."""
    start = current or f"{os.environ.get('MTPEFT_RUNS', 'runs')}{os.sep}"
    head, _, name = start.rpartition(os.sep)
    parent = Path(head or (os.sep if start.startswith(os.sep) else "."))
    prefix = start[: len(start) - len(name)]
    try:
        inner = sorted(p.name for p in parent.iterdir() if p.is_dir() and p.name.startswith(name))
    except OSError:
        return []
    runs = [f"{prefix}{n}" for n in inner if (parent / n / "config.py").is_file()]
    ways = [f"{prefix}{n}{os.sep}" for n in inner if any((parent / n).glob("*/config.py"))]
    return [*runs, *(way for way in ways if way[:-1] not in runs)]


def _matching(names: Iterable[str], current: str) -> list[str]:
    return list(dict.fromkeys(name for name in names if name.startswith(current)))
