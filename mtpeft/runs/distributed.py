"""Several processes, started by torchrun: what they add up and gather. With one process every function is the identity.

The gradients of all trained weights travel in one sum per step. They are few with parameter-efficient methods, so there
is nothing to hide behind the backward pass, and a process that had nothing to do with a weight simply adds zeros:
weights that no process used this step keep no gradient, exactly as in one process. Each process then makes the same
update, so that weights never differ.

An error of one process is that of all: before they exchange anything, all of them ask whether one has failed. The others
would wait for it for ever, and nobody would say why. What processes tell each other travels between CPUs, so that
GPUs, which sum gradients by nccl, need not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from mtpeft.errors import ConfigError, MtpeftError

T = TypeVar("T")


class SharedError(MtpeftError):
    """The error of the first process that has one, in every process."""


class LostError(SharedError):
    """Another process has ended; nothing can be exchanged any more."""


def start(device: torch.device) -> None:
    """Join the process group of torchrun, if it started this process. Call before MMEngine's Runner sets up.

    Raises `ConfigError` for a device that is not this process's own, and for one that processes cannot share.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device.type == "cuda" and device.index not in (None, int(os.environ.get("LOCAL_RANK", "0"))):
        raise ConfigError(f"device is {device} for all processes that torchrun started: device=cuda is a GPU for each")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device.type} is for one process: run without torchrun, or with device=cpu")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:  # an address is missing
        raise ConfigError(f"RANK and WORLD_SIZE are set, but torchrun did not start this process: {error}") from None


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rows(number: int, at_least: int = 1) -> range:
    """Which of `number` rows are this process's: equal shares in order, together all of them.

    A share has `at_least` so many rows, or none: few rows go to the first processes alone.
    """
    taking = max(1, min(world(), number // at_least))
    if rank() >= taking:
        return range(0)
    return range(rank() * number // taking, (rank() + 1) * number // taking)


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
    failed = torch.tensor([float(error is not None)])
    with _exchange():
        dist.all_reduce(failed)
    if not failed:
        return
    text = None if error is None else str(error)
    if error is not None and not isinstance(error, MtpeftError):
        text = f"process {rank()} failed: {type(error).__name__}: {error}"
    texts: list[str | None] = [None] * world()
    with _exchange():
        dist.all_gather_object(texts, text)
    raise SharedError(next(found for found in texts if found is not None))


@contextmanager
def _exchange() -> Iterator[None]:
    """One exchange of values; raises `LostError` when a process is no longer there."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostError(
            f"one of the {world()} processes has ended; the same command goes on from the last checkpoint"
        ) from error


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if world() > 1:
        all_well()
        with _exchange():
            dist.all_reduce(values)
    return values


def any_of(flag: bool) -> bool:
    """Whether it holds in one of the processes."""
    return bool(total(torch.tensor([float(flag)]))) if world() > 1 else flag


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their numbers."""
    if world() == 1:
        return [value]
    all_well()
    values: list[Any] = [None] * world()
    with _exchange():
        dist.all_gather_object(values, value)
    return values


def first(value: T) -> T:
    """The value of the first process."""
    if world() == 1:
        return value
    all_well()
    values = [value]
    with _exchange():
        dist.broadcast_object_list(values, src=0)
    return values[0]


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
    there = total(torch.tensor([float(t is not None) for t in tensors])).tolist()
    filled = [torch.zeros_like(x) if t is None else t for t, x in zip(tensors, like, strict=True)]
    flat = torch.cat([t.flatten().float() for t in filled])
    with _exchange():
        dist.all_reduce(flat)
    pieces = flat.split([t.numel() for t in filled])
    return [p.view_as(x).to(x.dtype) if flag else None for flag, p, x in zip(there, pieces, like, strict=True)]


def average_buffers(buffers: Iterable[torch.Tensor]) -> None:
    """Statistics that each process kept of its own samples (batch norm) become their mean; whole numbers stay.

    In double precision, in which the mean of equal numbers is that number, however many processes have it.
    """
    floats = [buffer for buffer in buffers if buffer.is_floating_point()]
    if world() == 1 or not floats:
        return
    mean = total(torch.cat([buffer.flatten().double() for buffer in floats])) / world()
    for buffer, piece in zip(floats, mean.split([buffer.numel() for buffer in floats]), strict=True):
        buffer.copy_(piece.view_as(buffer))
