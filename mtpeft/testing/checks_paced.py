"""Conformance checks of methods that are told of steps and epochs."""

from __future__ import annotations

import torch

from mtpeft.manager.pace import paced_modules
from mtpeft.testing.case import Case, gradients, scalar, training


def check_paced(case: Case) -> None:
    """A step's draws follow from the random numbers before it, serve blocks that run twice, and change nothing in evaluation.

    Neither does an epoch's end without a gradient; with gradients outputs stay finite, and counts do not grow.
    """
    manager = training(case.manager(double=True))
    case.require(bool(paced_modules(manager)) == case.spec.module.paced, "`paced` does not say what its modules are")
    if not case.spec.module.paced:
        return
    batch, backbone = case.inputs().double(), manager.backbone

    def step(seed: int, twice: bool = False) -> dict[str, torch.Tensor]:
        """The gradients of a step under the draws that follow from `seed`."""
        backbone.set_grad_checkpointing(twice)  # type: ignore[operator]
        torch.manual_seed(seed)
        manager.before_step()
        found = gradients(manager, scalar(manager(batch, "normals")))
        manager.after_backward()
        return found

    def evaluated() -> torch.Tensor:
        manager.eval()
        with torch.no_grad():
            output = manager(batch, "normals")
        manager.train()
        return output

    expected, count = evaluated(), manager.num_trainable()
    manager.before_step()
    case.close(evaluated(), expected, "outputs in evaluation after before_step", atol=0)
    manager.after_epoch()
    case.close(evaluated(), expected, "outputs after an epoch without a gradient", atol=0)
    first = step(1)
    for what, again in (("the same draws", step(1)), ("gradient checkpointing", step(1, twice=True))):
        for name, gradient in first.items():
            case.close(again[name], gradient, f"a step under {what}: gradient of {name}")
    manager(batch, "normals").square().mean().backward()
    manager.after_backward()
    manager.after_epoch()
    case.require(bool(evaluated().isfinite().all()), "outputs after an epoch are not finite")
    case.require(manager.num_trainable() <= count, "more weights after an epoch than before")
