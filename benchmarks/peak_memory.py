"""Peak memory of a training step by method: what `mtpeft plan` tells from 2 and 3 images against a step of the whole batch.

Estimated: as a plan does it, bytes after every operation of two small steps, extrapolated operation by operation. Measured:
what torch's own CPU allocator handed out and took back during a step of the whole batch (`torch.profiler`). Weights,
buffers and AdamW's state, which are there before the step, are added to both. The figures depend on shapes alone.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from _common import arguments, goal, show, write
from torch import nn
from torch.profiler import ProfilerActivity, profile

import mtpeft
from mtpeft.manager.attach import create_backbone
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.memory import optimizer_bytes, tensor_bytes
from mtpeft.runs.step_memory import StepMemory, at_batch

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "vpt_deep": {"num_tokens": 50},
    "bitfit": {},
    "lora": {"rank": 8},
    "adaptformer": {"bottleneck_dim": 64},
    "lst": {"reduction": 8},
    "vqt": {"num_tokens": 1},
    "linear_probe": {},
}
SIZES = (2, 3)
MIB = 2**20


def step(manager: TaskManager, optimizer: torch.optim.Optimizer, batch: int) -> None:
    """One step on noise."""
    images, labels = torch.randn(batch, *manager.anatomy.input_size), torch.randint(100, (batch,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(manager(images, "task"), labels).backward()
    optimizer.step()


def allocated(manager: TaskManager, optimizer: torch.optim.Optimizer, batch: int) -> int:
    """The most bytes that torch's allocator had given out during a step, beyond those from before."""
    optimizer.zero_grad()  # else the gradients of the step before are taken back without having been given
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(manager, optimizer, batch)
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def measure(backbone: nn.Module, method: str, options: dict[str, Any], batch: int) -> tuple[float, ...]:
    """Estimated and measured peak and their ratio, and of the estimate: kept for backward, weights, AdamW's state."""
    manager = mtpeft.attach(copy.deepcopy(backbone), method, **options)
    manager.add_task("task", num_classes=100)
    manager.train()
    trained = [p for p in manager.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    weights, state = tensor_bytes([*manager.parameters(), *manager.buffers()]), optimizer_bytes(trained)
    step(manager, optimizer, SIZES[0])
    small = [StepMemory() for _ in SIZES]
    for size, watch in zip(SIZES, small, strict=True):
        with watch:
            step(manager, optimizer, size)
    peak, saved = at_batch(batch, SIZES, small)
    estimated, measured = peak + weights + state, allocated(manager, optimizer, batch) + weights + state
    return estimated / MIB, measured / MIB, estimated / measured, saved / MIB, weights / MIB, state / MIB


def main() -> None:
    """Measure every method once; nothing here is a matter of time."""
    parser = arguments("peak_memory", __doc__)
    parser.set_defaults(repeats=1)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm name; random weights")
    parser.add_argument("--batch", type=int, default=8, help="images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = create_backbone(options.model, pretrained=False)
    rows = {method: measure(backbone, method, values, options.batch) for method, values in METHODS.items()}
    columns = ("estimated MiB", "measured MiB", "ratio", "for backward", "weights", "optimiser")
    show(f"{options.model}, batch {options.batch}: peak memory of a step", rows, columns)
    worst = max(abs(row[2] - 1) for row in rows.values())
    goals = [goal("|estimated / measured - 1|", worst, 0.1)]
    figures = {method: dict(zip(columns, (round(v, 3) for v in row), strict=True)) for method, row in rows.items()}
    write(options, {"peak_memory": figures, "goals": goals})


if __name__ == "__main__":
    main()
