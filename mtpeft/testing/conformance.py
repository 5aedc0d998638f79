"""The conformance harness: everything a method promises by being registered, checked on every tiny backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mtpeft.testing.backbones import TINY
from mtpeft.testing.case import Case
from mtpeft.testing.checks_attach import (
    check_clips,
    check_deepcopy,
    check_detach,
    check_identity,
    check_intermediates,
    check_refusal,
)
from mtpeft.testing.checks_claims import check_claims, check_merge, check_new_process, check_save, check_weights
from mtpeft.testing.checks_fit import check_fit
from mtpeft.testing.checks_options import check_refused_options
from mtpeft.testing.checks_paced import check_paced
from mtpeft.testing.checks_pool import check_pool
from mtpeft.testing.checks_training import (
    check_autocast,
    check_checkpointing,
    check_compile,
    check_forward_tasks,
    check_gradients,
    check_learns,
    check_mixed,
)

#: what is checked on every anatomy a method claims
CHECKS: tuple[Callable[[Case], None], ...] = (
    check_detach,
    check_fit,
    check_identity,
    check_intermediates,
    check_deepcopy,
    check_gradients,
    check_mixed,
    check_clips,
    check_forward_tasks,
    check_checkpointing,
    check_paced,
    check_autocast,
    check_merge,
    check_save,
    check_claims,
)


def check_method(name: str, anatomies: Iterable[str] | None = None, **options: Any) -> list[str]:
    """Check a registered method, with `options` of its config, on tiny backbones; returns the anatomies it claims.

    `anatomies` are keys of `mtpeft.testing.TINY`, all by default. A method claims an anatomy when its sites are there;
    on the others attaching must be refused and leave no trace, and at least one must be claimed. Raises
    `AssertionError` that names the method, the anatomy and what is wrong.
    """
    check_refused_options(Case(name, next(iter(TINY))))
    check_weights(Case(name, "vit"))
    cases = [Case(name, anatomy, options) for anatomy in (TINY if anatomies is None else anatomies)]
    claimed = [case for case in cases if case.claimed()]
    if not claimed:
        raise AssertionError(f"{name} can be attached to none of {', '.join(case.anatomy for case in cases)}")
    for case in cases:
        if case not in claimed:
            check_refusal(case)
    for case in claimed:
        for check in (*CHECKS, check_pool):
            check(case)
    check_learns(claimed[0])
    check_new_process(claimed[:1])
    return [case.anatomy for case in claimed]


__all__ = [
    "CHECKS",
    "check_compile",
    "check_learns",
    "check_method",
    "check_new_process",
    "check_pool",
    "check_refusal",
    "check_refused_options",
    "check_weights",
]
