"""What a config's docstring says of each of its options."""

from __future__ import annotations

import inspect
import re

from mtpeft.options import options_of


def meanings(config: type) -> dict[str, str]:
    """Option -> the part of the docstring of `config`, or of a class it extends, that explains it; "" where none does.

    An option is named in backquotes; what follows, up to the next one that begins a clause, is said of it.
    """
    names = list(options_of(config))
    found = dict.fromkeys(names, "")
    for cls in config.__mro__[:-1]:
        for paragraph in inspect.cleandoc(vars(cls)["__doc__"] or "").split("\n\n"):
            for name, meaning in _explained(" ".join(paragraph.split()), names).items():
                found[name] = found[name] or meaning
    return found


def _explained(text: str, names: list[str]) -> dict[str, str]:
    marked = "|".join(map(re.escape, names))
    found: dict[str, str] = {}
    for clause in re.split(rf"(?:(?<=[.;,:]) |^)(?=`(?:{marked})`)", text):
        start = re.match(rf"`({marked})`:?", clause)
        if start and not found.get(start[1]):
            meaning = clause[start.end() :].strip(" .;,:")
            found[start[1]] = meaning[1:-1] if re.fullmatch(r"\([^()]*\)", meaning) else meaning
    for clause in re.split(r"[.;] ", text):  # named in the middle of one: the whole of it
        for name in re.findall(rf"`({marked})`", clause):
            found[name] = found.get(name) or clause.strip(" .;,:").replace("`", "")
    return {name: meaning.replace("`", "") for name, meaning in found.items()}
