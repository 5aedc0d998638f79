"""Errors a user can cause. Each message is one line: what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class MtpeftError(Exception):
    """A mistake in the input. The command line prints the message and exits with code 2.

    Such errors cross from a worker process to the one that trains: they are pickled as their message, whatever a
    subclass's constructor takes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), str(self))


def _again(kind: type[MtpeftError], message: str) -> MtpeftError:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


class ConfigError(MtpeftError):
    """A recipe, a method config or an option is wrong."""


class DataError(MtpeftError):
    """Images, labels or streams are wrong."""


class CheckpointError(MtpeftError):
    """A saved file is damaged, foreign, or belongs to something else."""


class UnknownNameError(ConfigError):
    """A name that is not in a list of names; the message offers the nearest ones."""

    def __init__(self, kind: str, name: object, choices: Iterable[str], where: str = "") -> None:
        """`kind` says what was looked up ("method"), `where` the place of the name ("recipe x.py, key method.name")."""
        place = f" ({where})" if where else ""
        super().__init__(f"unknown {kind} {name!r}{place}.{nearest(str(name), choices)}")


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence that offers the names closest to `name`, or all of them when they are few; else an empty string."""
    names = sorted(set(choices))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return " Did you mean " + " or ".join(repr(c) for c in close) + "?"
    if names and len(names) <= 24:
        return " Known: " + ", ".join(names) + "."
    return ""
