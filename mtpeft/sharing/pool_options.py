"""Which options of a pool go together."""

from __future__ import annotations

from mtpeft.errors import ConfigError

#: sets of a pool that does not grow, where `size` is not given
SIZE = 10


def check_together(
    *,
    size: int | None,
    per_task: int | None,
    choose: str,
    top_k: int,
    start: str,
    from_previous: bool,
    key_loss: float | None,
    frequency: bool,
    batchwise: bool,
) -> None:
    """Raise `ConfigError` for options of `mtpeft.sharing.pool.Pool` of which one would have no effect, or no meaning."""
    mixes, fewest = choose == "mix", per_task or size or 0
    first = " when the first task is trained" if per_task else ""
    reasons = {
        "size is for pools that do not grow, per_task for those that do: leave one out": size and per_task,
        "choose='own' tells the sets of tasks apart: per_task in place of size": choose == "own" and size,
        "top_k chooses among sets, and choose='mix' uses all: leave it out": mixes and top_k > 1,
        f"top_k is {top_k}, but there are {fewest} sets{first}": not mixes and top_k > fewest,
        "key_loss draws keys to the images that chose them, and choose='mix' uses all: leave it out": mixes
        and key_loss,
        "from_previous copies the sets of the task before: it needs per_task": from_previous and not per_task,
        "from_previous and start='orthogonal' exclude each other": from_previous and start == "orthogonal",
        "frequency weighs the choice among the sets of one pool: choose='top' with size": (
            frequency and (choose != "top" or per_task)
        ),
        "batchwise is for sets that are chosen, and choose='mix' uses all: leave it out": batchwise and mixes,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"sharing 'pool': {reason}")
