"""What may differ between two commands on one run folder: how long it trains, and what does not touch its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtpeft.errors import ConfigError

#: may grow: the run goes on for longer
LENGTHS = ("training.epochs", "training.steps")
#: may be anything: where and how fast a run goes, what it says meanwhile, how often it is saved
FREE = (
    "device",
    "visualizer",
    "checkpoint.interval",
    *(
        f"training.{key}"
        for key in ("workers", "threads", "log_every", "grad_checkpointing", "compile", "channels_last")
    ),
    *("cache", "cache.features", "cache.folder", "cache.limit"),
)


@dataclass(frozen=True)
class Change:
    """One key of a recipe, dotted, with the value it had and the one it gets; None for one that is not given."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        shown = ["not given" if value is None else repr(value) for value in (self.old, self.new)]
        return f"{self.key} ({shown[0]} there, {shown[1]} here)"


def flatten(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested recipe as {"method.rank": 8, ...}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat


def differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """The keys whose values differ, mapping by mapping, in the order of the names."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            place = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key), new.get(key), place)
    elif old != new:
        yield Change(path, old, new)


def allowed(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[Change]:
    """The changes of a run's recipe; `ConfigError` naming those that cannot be made. `where` is the folder, in messages."""
    changes = list(differences(old, new))
    wrong = [change for change in changes if change.key not in (*LENGTHS, *FREE)]
    if wrong:
        raise ConfigError(
            f"{where} holds a run of another recipe, which differs in {_listed(wrong)}; a run can go on with more epochs "
            "or steps, and with another device, visualizer, cache, checkpoint.interval, or workers, threads, log_every, "
            "grad_checkpointing, compile and channels_last of its training: give another --out, or --fresh to discard it"
        )
    for change in changes:
        if change.key in LENGTHS and not _grows(change):
            raise ConfigError(
                f"{where}: {change}: a run can go on for longer, not be cut; give another --out, or --fresh"
            )
    return changes


def _grows(change: Change) -> bool:
    numbers = [0 if value is None else value for value in (change.old, change.new)]
    return all(isinstance(n, int) for n in numbers) and numbers[1] > numbers[0]


def _listed(changes: list[Change], most: int = 5) -> str:
    more = f" and {len(changes) - most} more keys" if len(changes) > most else ""
    return ", ".join(map(str, changes[:most])) + more
