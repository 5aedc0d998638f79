"""What concerns one task costs the same however many there are, and finds the same weights as a walk through all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mtpeft
from mtpeft.testing import tiny_backbone

FEW, MANY = 5, 120
#: method and sharing: weights of each task's own, common ones, both, and generated ones
KINDS = {
    "per task": ("adaptformer", "per_task"),
    "shared": ("lora", "shared"),
    "split": ("vmt_adapter", "split"),
    "generated": ("adaptformer", "hyperformer"),
}


def attached(kind: str, tasks: int, head: str = "linear") -> mtpeft.TaskManager:
    method, sharing = KINDS[kind]
    torch.manual_seed(0)
    manager = mtpeft.attach(tiny_backbone("vit"), method, sharing=sharing)
    for i in range(tasks):
        manager.add_task(f"task {i}", num_classes=2, head=head)
    return manager


def calls(action: Callable[[], Any]) -> int:
    """Python functions that `action` calls."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


ACTIONS: dict[str, Callable[[mtpeft.TaskManager], Any]] = {
    "add": lambda manager: manager.add_task("new", num_classes=2),
    "remove": lambda manager: manager.remove_task("task 3"),
    "freeze": lambda manager: manager.freeze_task("task 3"),
    "select": lambda manager: manager.set_task("task 3"),
    "count": lambda manager: manager.num_trainable("task 3"),
    "trained weights": lambda manager: list(manager.trainable_parameters("task 3")),
    "forward": lambda manager: manager(torch.zeros(2, *manager.anatomy.input_size), "task 3"),
    "mixed": lambda manager: manager(torch.zeros(2, *manager.anatomy.input_size), ["task 3", "task 1"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ACTIONS)
def test_one_task_costs_the_same_among_many(action: str, kind: str) -> None:
    few, many = attached(kind, FEW), attached(kind, MANY)
    for manager in (few, many) if action in ("forward", "mixed") else ():
        ACTIONS[action](manager)  # what a first pass looks up, it keeps
    assert calls(lambda: ACTIONS[action](many)) <= 1.02 * calls(lambda: ACTIONS[action](few))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_by_task_are_all_trained_weights_once(kind: str) -> None:
    manager = attached(kind, FEW)
    groups = manager.trained_state_by_task()
    assert list(groups) == ["", *manager.tasks]
    names = [name for group in groups.values() for name in group]
    whole = manager.trained_state()
    assert sorted(names) == sorted(whole)
    assert all(torch.equal(tensor, whole[name]) for group in groups.values() for name, tensor in group.items())
    assert all(f"task={task}" in name for task in manager.tasks for name in groups[task])
    assert list(manager.trained_state_by_task(["task 2"])) == ["", "task 2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["linear", "growing"])
def test_trained_weights_of_a_task_are_those_it_uses(kind: str, head: str) -> None:
    manager = attached(kind, FEW, head)
    found = dict(manager.trainable_parameters("task 2"))
    everything = dict(manager.trainable_parameters())
    assert found.keys() <= everything.keys() and all(found[name] is everything[name] for name in found)
    others = [t for t in manager.tasks if t != "task 2"]
    assert not any(f"task={other}" in name for other in others for name in found)
    manager(torch.randn(2, *manager.anatomy.input_size), "task 2").sum().backward()
    used = {name for name, parameter in manager.named_parameters() if parameter.grad is not None}
    assert used - {n for n in used if any(f"task={other}" in n for other in others)} <= found.keys()


def test_modes_reach_every_module_and_new_tasks_take_the_manager_s() -> None:
    manager = attached("per task", FEW)
    for mode in (True, False):
        manager.train(mode)
        manager.add_task(f"new {mode}", num_classes=2)
        own = [m for part in (manager.attachments, manager.heads) for m in part.modules()]
        assert {m.training for m in own} == {mode} == {manager.training}
        assert not any(m.training for m in manager.backbone.modules())


def test_a_head_that_keeps_its_own_mode_is_asked() -> None:
    class Steady(torch.nn.Linear):
        """In eval mode whatever is asked."""

        def train(self, mode: bool = True) -> Steady:
            return super().train(False)

    manager = attached("per task", 1)
    manager.add_task("steady", head=Steady(manager.feature_dim, 2))
    manager.train()
    assert not manager.head("steady").training and manager.head("task 0").training
