"""Several processes, started by torchrun: what they add up and gather. With one process every function is the identity.

The gradients of all trained weights travel in one sum per step. They are few with parameter-efficient methods, so there
is nothing to hide behind the backward pass, and a process that drew other tasks than its neighbours simply adds zeros:
weights that no process used this step keep no gradient, exactly as in one process.

An error of one process is that of all: before they exchange anything, all of them ask whether one has failed. The others
would wait for it for ever, and nobody would say why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mtpeft.errors import MtpeftError


class SharedError(MtpeftError):
    """The error of the first process that has one, in every process."""


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


@contextmanager
def together() -> Iterator[None]:
    """What all processes do together: an error that one of them leaves the context with leaves it in all of them.

    Mistakes of the user's become a `SharedError`; anything else stays what it is where it happened. Inside, processes
    exchange values by the functions of this module alone, or after `all_well`.
    """
    try:
        yield
        all_well()
    except SharedError:
        raise
    except Exception as error:
        if world() == 1:
            raise
        try:
            all_well(error)
        except SharedError as shared:
            raise (shared if isinstance(error, MtpeftError) else error) from None


def all_well(error: Exception | None = None) -> None:
    """Tell the others of `error`, and hear of theirs: raises the first process's as `SharedError`, in all of them."""
    if world() == 1:
        return
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    failed = torch.tensor([float(error is not None)], device=device)
    dist.all_reduce(failed)
    if not failed:
        return
    text = None if error is None else str(error)
    if error is not None and not isinstance(error, MtpeftError):
        text = f"process {rank()} failed: {type(error).__name__}: {error}"
    texts: list[str | None] = [None] * world()
    dist.all_gather_object(texts, text)
    raise SharedError(next(found for found in texts if found is not None))


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if world() > 1:
        all_well()
        dist.all_reduce(values)
    return values


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their numbers."""
    if world() == 1:
        return [value]
    all_well()
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
