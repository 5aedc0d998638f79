"""Floating-point operations of one forward pass, counted by torch (matrix products, convolutions, attention)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtpeft.manager.manager import TaskManager

RULE = (
    "FLOPs of one image, a multiplication and an addition counted as two; total: all tasks together, backbone: the part "
    "before the heads (method included), per task: the task alone."
)


def count_flops(manager: TaskManager) -> dict[str, Any]:
    """{"total", "backbone", "heads": {task: n}, "per_task": {task: n}, "rule"} for one image."""
    tasks = manager.tasks
    parameter = next(manager.parameters())
    images = torch.zeros(1, *manager.anatomy.input_size, device=parameter.device, dtype=parameter.dtype)
    with _evaluating(manager):
        inputs: dict[str, Any] = {}
        hooks = [
            manager.head(task).register_forward_pre_hook(lambda _, args, task=task: inputs.setdefault(task, args))
            for task in tasks
        ]
        total = _counted(lambda: manager.forward_tasks(images, tasks))
        for hook in hooks:
            hook.remove()
        heads = {task: _counted(partial(manager.head(task), *inputs[task])) for task in tasks}
        alone = {task: forward_flops(manager, images, task) for task in tasks}
    return {
        "total": total,
        "backbone": total - sum(heads.values()),
        "heads": heads,
        "per_task": alone,
        "rule": RULE,
    }


def forward_flops(manager: TaskManager, inputs: torch.Tensor, task: str) -> int:
    """FLOPs of one task's forward pass, in eval mode, over images (B, C, H, W) or clips (B, C, T, H, W)."""
    with _evaluating(manager):
        return _counted(lambda: manager(inputs, task))


@contextmanager
def _evaluating(manager: TaskManager) -> Iterator[None]:
    """In eval mode, and with nothing to train: torch's counter fails on a view of a trained weight under `no_grad`."""
    training, trained = manager.training, [p for p in manager.parameters() if p.requires_grad]
    manager.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with manager.runtime.trials():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
        manager.train(training)


def _counted(call: Callable[[], Any]) -> int:
    """Attention is split into its products first: torch has no formula for every fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
