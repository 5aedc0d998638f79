"""How often the tasks chose each set of a pool, which weighs what later tasks choose (L2P, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Usage(nn.Module):
    """How often each set was chosen while one task was trained: `counts` (P, M), saved with the task.

    `seen` is what this process has counted of it since the counts of several were joined.
    """

    def __init__(self, groups: int, sets: int) -> None:
        super().__init__()
        self.counts: torch.Tensor
        self.seen: torch.Tensor
        self.register_buffer("counts", torch.zeros(groups, sets))
        self.register_buffer("seen", torch.zeros(groups, sets), persistent=False)

    def add(self, votes: torch.Tensor) -> None:
        """Count votes (P, M)."""
        self.counts += votes
        self.seen += votes

    def join(self, total: torch.Tensor) -> None:
        """`total` is the sum of what all processes have `seen`."""
        self.counts += total - self.seen
        self.seen.zero_()


def frequency_before(usages: nn.ModuleDict, tasks: Sequence[str], index: torch.Tensor | None) -> torch.Tensor:
    """(P, B or 1, M): the share each set has of what the tasks before an image's own chose; 1 where there are none.

    `usages` by the keys of tasks, in the order they were added; `index` (B,) says whose each image is.
    """
    names, found = list(usages), list[Any](usages.values())
    tables = []
    for task in tasks:
        before = [usage.counts for usage in found[: names.index(f"task={task}")]]
        total = torch.stack([torch.zeros_like(found[0].counts), *before]).sum(0)
        every = total.sum(1, keepdim=True)
        tables.append(torch.where(every > 0, total / every.clamp_min(1), torch.ones_like(total)))
    table = torch.stack(tables, dim=1)
    return table if index is None else table.index_select(1, index)


@torch.no_grad()
def count_choices(
    usages: nn.ModuleDict, tasks: Sequence[str], index: torch.Tensor | None, chosen: torch.Tensor, count: int
) -> None:
    """Add the sets (P, B, k) that the first `count` images chose to the counts of their tasks."""
    first: Any = usages[f"task={tasks[0]}"]
    votes = (chosen[:, :count].unsqueeze(-1) == torch.arange(first.counts.shape[1], device=chosen.device)).sum(2)
    for position, task in enumerate(tasks):
        usage: Any = usages[f"task={task}"]
        whose = votes if index is None else votes * (index[:count] == position)[:, None]
        usage.add(whose.sum(1))
