"""What choosing weights by the image costs: training steps of pools against those of the same method with shared weights.

L2P, DualPrompt and CODA-Prompt on ViT-Ti/16 at 224 pixels with random weights and generated images, with and without rows that
keep the queries. All steps take turns in one process, so that the ratios hold on a busy machine. Rows of prompts that act in
the first block hold the image itself: what is saved is the pass of the query alone.
Command:  python benchmarks/pool.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _common import arguments, goal, interleave, milliseconds, ratio, show, write
from torch.nn import functional as F

import mtpeft
from mtpeft.manager.rows import take_rows

TASKS = 10
PREFIX = {"name": "prefix_tuning", "blocks": [0, 1, 2, 3, 4]}
#: name -> (method, pool, tokens of the plain method that has as many as an image gets)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "L2P": ({"name": "vpt_shallow", "num_tokens": 5}, {"size": 10, "top_k": 5}, 25),
    "DualPrompt": ({**PREFIX, "num_tokens": 5}, {"choose": "own"}, 5),
    "CODA-Prompt": ({**PREFIX, "num_tokens": 4}, {"choose": "mix", "per_task": 10, "keys": "block"}, 4),
}
WITHOUT, WITH = 2.1, 1.1


def stepping(method: dict[str, Any], sharing: Any, rows: bool, batch: int) -> Callable[[], object]:
    """A training step of the last of `TASKS` tasks, on images or on rows."""
    torch.manual_seed(0)
    manager = mtpeft.attach(mtpeft.create_backbone("vit_tiny_patch16_224", False), method, sharing=sharing)
    for number in range(TASKS):
        manager.add_task(f"task{number}", num_classes=10)
    images, labels = torch.randn(batch, 3, 224, 224), torch.arange(batch) % 10
    given = take_rows(manager).rows(images) if rows else images
    optimizer = torch.optim.Adam([p for _, p in manager.trainable_parameters()], lr=1e-3)
    manager.train()

    def step() -> None:
        loss = F.cross_entropy(manager(given, f"task{TASKS - 1}"), labels) + manager.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure all cases and print the ratios."""
    parser = arguments("pool", __doc__)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found, goals = {}, []
    for name, (method, pool, tokens) in CASES.items():
        sharing = {"name": "pool", **pool}
        steps = {
            "shared": stepping({**method, "num_tokens": tokens}, "shared", False, options.batch),
            "pool": stepping(method, sharing, False, options.batch),
            "pool, cached queries": stepping(method, sharing, True, options.batch),
        }
        times = interleave(steps, options.repeats)
        ratios = {case: ratio(times, case, "shared") for case in steps}
        found[name] = {"milliseconds": milliseconds(times), "ratios": ratios}
        show(name, {case: (milliseconds(times)[case], ratios[case]) for case in steps}, ("ms", "to shared"))
        goals.append(goal(f"{name}: pool / shared", ratios["pool"], WITHOUT))
        goals.append(goal(f"{name}: cached / shared", ratios["pool, cached queries"], WITH))
    write(options, {"cases": found, "goals": goals})


if __name__ == "__main__":
    main()
