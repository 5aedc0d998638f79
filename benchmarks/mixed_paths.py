"""The two ways a mixed batch can be served, and when which is faster.

Gather: every sample's weights are copied together and one batched call serves all. Slices: one call per task on its
rows. `mtpeft.sharing.bank.SLICE_ABOVE` decides by the weights a site has per activation and task of the batch. This
times both on single sites of a ViT-Ti, without and with backward, and prints what every threshold would lose against
always choosing right.
"""

from __future__ import annotations

import copy
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from _common import arguments, interleave, ratio, show, wake, write

import mtpeft
from mtpeft.manager.attach import create_backbone
from mtpeft.sharing import bank

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ssf": ("ssf", {"sites": ("fc1",)}),
    "lora 8": ("lora", {"sites": ("fc1",)}),
    "adaptformer 8": ("adaptformer", {"bottleneck_dim": 8}),
    "adaptformer 64": ("adaptformer", {"bottleneck_dim": 64}),
    "adaptformer 256": ("adaptformer", {"bottleneck_dim": 256}),
}
PATHS = {"gather": math.inf, "slices": 0.0}
THRESHOLDS = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 1.5, 2.0, 4.0, math.inf)
BATCH = 32


def cases(attachment: Any, tokens: int, tasks: int, backward: bool) -> dict[str, Callable[[], object]]:
    """Both paths on the attachment's site, with `tasks` tasks spread over the batch."""
    site = attachment.selected[0]
    inputs = [torch.randn(BATCH, tokens, width, requires_grad=backward) for width in (site.dim, site.dim_out)]
    index = torch.arange(BATCH) % tasks
    names = [f"t{task}" for task in range(tasks)]

    def run(slice_above: float) -> None:
        bank.SLICE_ABOVE = slice_above
        with torch.set_grad_enabled(backward):
            out = attachment.weights.call(site.key, names, index, inputs, {})
        if backward:
            out.backward(torch.ones_like(out))

    return {path: lambda value=value: run(value) for path, value in PATHS.items()}


def weight_ratio(attachment: Any, tokens: int, tasks: int) -> float:
    """Weights per activation and task, as `call_mixed` computes it."""
    site = attachment.selected[0]
    weights = sum(t.numel() for t in attachment.weights.bank("t0").tensors(site.key).values())
    return weights / (tasks * tokens * (site.dim + site.dim_out))


def measure(repeats: int, backward: bool) -> list[dict[str, Any]]:
    """Time of gather / time of slices over methods, tokens and tasks."""
    backbone = create_backbone("vit_tiny_patch16_224", pretrained=False)
    points = []
    for label, (method, options) in METHODS.items():
        manager = mtpeft.attach(copy.deepcopy(backbone), method, blocks=(0,), **options)
        for task in range(BATCH):
            manager.add_task(f"t{task}", num_classes=2)
        wake(manager.attachments)
        attachment = manager.attachments[0]
        for tokens, tasks in itertools.product((5, 50, 197), (2, 4, 16, 32)):
            times = interleave(cases(attachment, tokens, tasks, backward), repeats)
            points.append(
                {
                    "method": label,
                    "tokens": tokens,
                    "tasks": tasks,
                    "gather_x_slices": round(ratio(times, "gather", "slices"), 4),
                    "ratio": round(weight_ratio(attachment, tokens, tasks), 5),
                }
            )
    return points


def lost(points: list[dict[str, Any]], threshold: float) -> float:
    """Geometric mean of chosen time / best time under a threshold."""
    logs = []
    for point in points:
        relative = point["gather_x_slices"]
        chosen = 1.0 if point["ratio"] > threshold else relative
        logs.append(math.log(chosen / min(1.0, relative)))
    return math.exp(statistics.fmean(logs))


def main() -> None:
    """Inference, then forward and backward."""
    parser = arguments("mixed_paths", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    default = bank.SLICE_ABOVE
    results: dict[str, Any] = {"slice_above": default}  # the library's own; `measure` sets others
    kinds = {"inference": False, "forward_backward": True}
    for kind, backward in kinds.items():
        points = sorted(measure(options.repeats, backward), key=lambda p: p["ratio"])
        results[kind] = points
        rows = {
            f"{p['method']}, {p['tokens']} tokens, {p['tasks']} tasks": (p["ratio"], p["gather_x_slices"])
            for p in points
        }
        show(kind, rows, ("weights/act./task", "gather / slices"))
    table = {f"SLICE_ABOVE = {t:g}": tuple(lost(results[kind], t) for kind in kinds) for t in THRESHOLDS}
    show(f"chosen / best, geometric mean (now {default:g})", table, tuple(kinds))
    results["lost"] = {name: [round(v, 4) for v in values] for name, values in table.items()}
    write(options, results)


if __name__ == "__main__":
    main()
