"""Two methods on one backbone: every pair works or is refused in words; prompts act alike whatever the order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case

ANATOMIES = ("vit", "swin")


def own_methods() -> list[str]:
    return [name for name in METHODS if METHODS.get(name).module.__module__.startswith("mtpeft.")]


def part(name: str, anatomy: str) -> dict[str, Any]:
    return {"name": name, **Case(name, anatomy).all_options}


def alone(anatomy: str) -> dict[str, TaskManager]:
    """The methods that the anatomy takes."""
    found = {}
    for name in own_methods():
        try:
            found[name] = mtpeft.attach(tiny_backbone(anatomy), [part(name, anatomy)])
        except ConfigError:
            continue
    return found


@functools.cache
def kinds(anatomy: str) -> list[str]:
    """One method of every way to act: which styles of sites, with a state or a task stream or weights of the backbone or not."""
    found: dict[Any, str] = {}
    for name, manager in alone(anatomy).items():
        (attachment,) = manager.methods
        spec, styles = attachment.spec, frozenset(site.style for site in attachment.selected)
        blocks = any(
            site.module is manager.backbone.get_submodule(manager.anatomy.blocks[0]) for site in attachment.selected
        )
        found.setdefault((styles, blocks, spec.module.stateful, spec.stream is None, spec.module.joins), name)
    return list(found.values())


def check_pairs(anatomy: str, pairs: Iterable[tuple[str, ...]]) -> None:
    backbone = tiny_backbone(anatomy)
    for pair in pairs:
        try:
            mtpeft.attach(backbone, [part(name, anatomy) for name in pair]).detach()
        except ConfigError as error:
            message = str(error)
            assert not any(word in message for word in ("Error ", "object has no attribute", "\n")), message
            assert f"{pair[0]!r}" in message or f"{pair[1]!r}" in message


def test_pairs_of_every_kind_work_or_are_refused_in_words() -> None:
    pairs = list(itertools.combinations(kinds("vit"), 2))[::3]
    check_pairs("vit", [pair if turn % 2 else pair[::-1] for turn, pair in enumerate(pairs)])


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ANATOMIES)
def test_every_pair_works_or_is_refused_in_words(anatomy: str) -> None:
    check_pairs(anatomy, itertools.permutations(alone(anatomy), 2))


@pytest.mark.parametrize("anatomy", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("prompts", ["vpt_shallow", "vpt_deep"])
def test_prompts_act_alike_in_whatever_order(prompts: str, anatomy: str) -> None:
    torch.manual_seed(0)
    images = None
    for name in kinds(anatomy):
        if name in ("vpt_shallow", "vpt_deep") or Case(name, anatomy).spec.for_clips:
            continue
        try:
            managers = [
                mtpeft.attach(tiny_backbone(anatomy), [part(n, anatomy) for n in pair]).double()
                for pair in ((prompts, name), (name, prompts))
            ]
        except ConfigError:
            continue
        for manager in managers:
            manager.eval()
            if any(a.asks for a in manager.methods):
                break
            Case(name, anatomy).add_task(manager, "birds", num_classes=3)
        else:
            first, second = managers
            for p in first.attachments.parameters():
                p.data = torch.randn_like(p) * 0.1
            for one, other in zip(first.methods, reversed(second.methods), strict=True):
                other.load_state_dict(one.state_dict())
            images = torch.randn(2, *first.anatomy.input_size, dtype=torch.float64)
            torch.testing.assert_close(
                first.features(images, "birds"),
                second.features(images, "birds"),
                rtol=0,
                atol=1e-9,
                msg=f"{prompts} and {name}",
            )
    assert images is not None
