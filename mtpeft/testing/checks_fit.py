"""Conformance checks of methods that see a task's data before they are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from mtpeft.errors import MtpeftError
from mtpeft.testing.case import Case, images


def check_fit(case: Case) -> None:
    """A method that asks for a task's data cannot be used before; it leaves all else as it was, and what it chooses lasts.

    Equal data give equal choices, bit for bit; other tasks' weights are fitted apart, and shared ones once.
    """
    manager = case.attach()
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=3)
    if not manager.needs_fit("birds"):
        return
    backbone: Any = manager.backbone
    for where, use in {
        "a forward": lambda: manager(case.inputs(2), "birds"),
        "a mixed batch": lambda: manager(case.inputs(2), ["cars", "birds"]),
        "the backbone": lambda: backbone.forward_features(images(2)),
        "a merge": lambda: manager.merge("birds"),
    }.items():
        if where != "a merge" or case.spec.folds:
            _refused(case, use, f"{where} before fit")
    _refused(case, lambda: manager.fit("birds", []), "fit without data", names_it=False)
    twin, before = copy.deepcopy(manager), _state(manager)
    generator = torch.random.get_rng_state()
    for made in (manager, twin):
        made.fit("birds", case.batches(manager, "birds"), loss=_mean)
    case.close(torch.random.get_rng_state(), generator, "random numbers after fit", atol=0)
    after, shared = _state(manager), len(manager.methods[0].weights.banks()) == 1
    case.close(after["backbone"], before["backbone"], "the backbone after fit", atol=0)
    case.require(not any(p.requires_grad or p.grad is not None for p in backbone.parameters()), "fit left gradients on")
    case.close(after["weights"], _state(twin)["weights"], "weights fitted to the same data", atol=0)
    moved = {name for name, t in after["weights"].items() if not torch.equal(t, before["weights"][name])}
    case.require(any(not name.endswith("fit_done") for name in moved), "fit chose nothing")
    case.require(shared or not any("task=cars" in name for name in moved), "fit changed the weights of another task")
    case.require(manager.needs_fit("cars") != shared, "shared weights are fitted once, and others each")
    _refused(case, lambda: manager.fit("birds", case.batches(manager, "birds")), "a second fit", names_it=False)
    manager.train()
    case.require(bool(manager(case.inputs(2), "birds").isfinite().all()), "outputs after fit are not finite")


def _mean(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def _state(manager: Any) -> dict[str, Any]:
    backbone = {name: tensor.clone() for name, tensor in manager.backbone.state_dict().items()}
    flags = {name: torch.tensor(module.training) for name, module in manager.backbone.named_modules()}
    weights = {name: tensor.clone() for name, tensor in manager.trained_state().items()}
    return {"backbone": {**backbone, **flags}, "weights": weights}


def _refused(case: Case, use: Callable[[], Any], what: str, names_it: bool = True) -> None:
    """`use` must raise one line, which names the method."""
    try:
        use()
    except MtpeftError as error:
        good = "\n" not in str(error) and ("'birds'" in str(error) or "'cars'" in str(error))
        case.require(good and (not names_it or case.name in str(error)), f"the refusal of {what} says {str(error)!r}")
    else:
        raise case.fail(f"{what} is no error")
