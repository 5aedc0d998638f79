"""Several processes, started by torchrun: what they add up and gather. With one process every function is the identity.

The gradients of all trained weights travel in one sum per step. They are few with parameter-efficient methods, so there
is nothing to hide behind the backward pass, and a process that drew other tasks than its neighbours simply adds zeros:
weights that no process used this step keep no gradient, exactly as in one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def start(device: torch.device) -> None:
    """Join the process group of torchrun, if it started this process. Call before MMEngine's Runner sets up."""
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their numbers."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes; None stays where no process has one."""
    if world() == 1:
        return
    grads = sum_tensors([p.grad for p in parameters], parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad


def sum_tensors(tensors: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Element-wise sums over the processes of tensors that some of them may lack; all have the shapes of `like`."""
    if world() == 1:
        return list(tensors)
    flags = torch.tensor([float(t is not None) for t in tensors], device=like[0].device)
    filled = [torch.zeros_like(x) if t is None else t for t, x in zip(tensors, like, strict=True)]
    flat = total(torch.cat([flags, *(t.flatten().to(flags.dtype) for t in filled)]))
    flags, *pieces = flat.split([len(tensors), *(t.numel() for t in filled)])
    return [
        piece.view_as(x).to(x.dtype) if flag > 0 else None for flag, piece, x in zip(flags, pieces, like, strict=True)
    ]


def average_buffers(module: nn.Module) -> None:
    """Statistics that each process kept of its own samples (batch norm) become their mean."""
    if world() == 1:
        return
    for buffer in module.buffers():
        if buffer.dtype.is_floating_point:
            buffer.copy_(total(buffer.clone()) / world())
