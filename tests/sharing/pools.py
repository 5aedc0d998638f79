"""Managers with pools in double precision, and a shared manager that stands for one choice."""

from __future__ import annotations

from typing import Any

import torch

import mtpeft
from mtpeft.manager.manager import TaskManager
from mtpeft.testing import tiny_backbone

EXACT: dict[str, float] = {"rtol": 0.0, "atol": 1e-9}


def images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pooled(
    method: Any = "ssf", tasks: int = 2, anatomy: str = "vit", options: dict[str, Any] | None = None, **sharing: Any
) -> TaskManager:
    """A manager with `tasks` tasks of three classes, "t0", "t1", ..., all weights away from where they start."""
    torch.manual_seed(3)
    sharing = {"name": "pool", **sharing}
    made = mtpeft.attach(tiny_backbone(anatomy).double(), method, sharing=sharing, **(options or {}))
    for number in range(tasks):
        made.add_task(f"t{number}", num_classes=3)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        seen = queries(images(6), anatomy)
        for number, one in enumerate(source(made)._sets()):  # so that images choose differently
            one.keys.add_(8 * (seen[number % 6] - seen.mean(0)))
    return made


def source(manager: TaskManager) -> Any:
    """The pool of the first method."""
    return manager.methods[0].weights


def queries(x: torch.Tensor, anatomy: str = "vit") -> torch.Tensor:
    """Pooled features of the plain backbone."""
    plain: Any = tiny_backbone(anatomy).double()
    with torch.no_grad():
        return plain.forward_head(plain.forward_features(x), pre_logits=True)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of two vectors, by its definition."""
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def alone(
    x: torch.Tensor, weights: dict[str, torch.Tensor], method: Any = "ssf", anatomy: str = "vit", **options: Any
) -> torch.Tensor:
    """Features of images under one plain set of weights, by names of a bank's state."""
    plain = mtpeft.attach(tiny_backbone(anatomy).double(), method, sharing="shared", **options)
    plain.add_task("only", num_classes=2)
    plain.methods[0].weights.bank("only").load_state_dict(weights)
    return plain.eval().features(x, "only")


def states(manager: TaskManager) -> list[dict[str, torch.Tensor]]:
    """The banks of all sets, by name."""
    return [bank.state_dict() for bank in source(manager).banks()]
