"""Floating-point operations of one forward pass, counted by torch (matrix products, convolutions, attention)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtpeft.manager import TaskManager

RULE = (
    "FLOPs of one image, a multiplication and an addition counted as two; total: all tasks together, backbone: the part "
    "before the heads (method included), per task: the task alone."
)


def count_flops(manager: TaskManager) -> dict[str, Any]:
    """{"total", "backbone", "heads": {task: n}, "per_task": {task: n}, "rule"} for one image."""
    tasks = manager.tasks
    parameter = next(manager.parameters())
    images = torch.zeros(1, *manager.anatomy.input_size, device=parameter.device, dtype=parameter.dtype)
    training = manager.training
    manager.eval()
    try:
        inputs: dict[str, Any] = {}
        hooks = [
            manager.head(task).register_forward_pre_hook(lambda _, args, task=task: inputs.setdefault(task, args))
            for task in tasks
        ]
        total = _counted(lambda: manager.forward_tasks(images, tasks))
        for hook in hooks:
            hook.remove()
        heads = {task: _counted(lambda task=task: manager.head(task)(*inputs[task])) for task in tasks}
        alone = {task: _counted(lambda task=task: manager(images, task)) for task in tasks}
    finally:
        manager.train(training)
    return {
        "total": total,
        "backbone": total - sum(heads.values()),
        "heads": heads,
        "per_task": alone,
        "rule": RULE,
    }


def _counted(call: Any) -> int:
    """Attention is split into its products first: torch has no formula for every fused kernel."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
