"""What several processes (torchrun) do with a step: each takes its part of every batch, and what they find is summed.

A step is then that of one process, up to rounding, but for two things that look at the images of a process alone: its
dropout draws random numbers of its own, and batch norm that is trained normalises by the images at hand (its running
statistics are the mean of those of all processes).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtpeft.data.loader import mix
from mtpeft.errors import ConfigError
from mtpeft.runs.distributed import rank, sum_tensors, total, world
from mtpeft.sharing.pool_usage import Usage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.distributed.distributed_helper import _DistributedHelperCls

#: [images, labels, ..., task labels], (B, ...) each; None where a process has no part of a batch
Part = list[torch.Tensor] | None

# Avalanche would deal out samples by a sampler of its own, with padding, in loaders that all processes must read alike, and
# have no evaluation in processes but the first.
_DistributedHelperCls.is_distributed = property(lambda self: False)
_DistributedHelperCls.is_main_process = property(lambda self: True)


def parts_of(batches: Iterable[list[torch.Tensor]], rows: Callable[[int], range]) -> Iterator[Part]:
    """This process's part of batches that all processes have read whole."""
    for batch in batches:
        own = rows(len(batch[0]))
        yield [tensor[own.start : own.stop] for tensor in batch] if own else None


@dataclass(frozen=True)
class Step:
    """What the parts of this process count in a step of `number` parts in all processes.

    Of part k `labels[k]` are its labels; `weights[k]` is their share of those of the whole step, times `number`: about 1,
    so that half precision has the numbers of a step of one batch. The sum over parts is to be divided by `number`.
    Where there is no label, as no pixel of a dense task may have one, parts count by their images.
    """

    labels: list[int]
    weights: list[float]
    number: int

    @classmethod
    def of(cls, parts: Sequence[Part], count: Callable[[torch.Tensor], int]) -> Step:
        """`count` gives the number of labels of a batch's target."""
        own = [(0, 0, 0) if part is None else (count(part[1]), len(part[1]), 1) for part in parts]
        labels, images, number = total(torch.tensor(own, dtype=torch.float64).sum(0)).tolist()
        weights = [number * (o[0] / labels if labels else o[1] / images) for o in own]
        return cls([o[0] for o in own], weights, int(number))


@contextmanager
def own_numbers(device: torch.device, *place: int) -> Iterator[None]:
    """Random numbers of this process's own for a forward pass, a function of `place`; the common ones stay as they are."""
    if world() == 1:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(mix("forward", *place, rank()))
        yield


def sum_step(parameters: Sequence[nn.Parameter], loss: torch.Tensor, step: Step) -> torch.Tensor:
    """Make gradients those of the whole step; returns its loss, out of the sum of those of this process's parts."""
    if world() > 1:
        *gradients, summed = sum_tensors([*(p.grad for p in parameters), loss], [*parameters, loss])
        loss = loss if summed is None else summed
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    if step.number > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(step.number)
    return loss / step.number


def statistics(model: nn.Module) -> list[torch.Tensor]:
    """The buffers in which batch norms keep what they see in training."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    return [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]


def usages(model: nn.Module) -> list[Usage]:
    """What counts the choices of images in training."""
    return [module for module in model.modules() if isinstance(module, Usage)]


def sum_counts(counted: Sequence[Usage]) -> None:
    """Add what the other processes have counted since they were asked last."""
    for usage in counted:
        usage.join(total(usage.seen.clone()))


def check_processes(plugins: Sequence[Any], known: Callable[[Any], bool]) -> None:
    """Refuse plugins of the user's own that do not say, in Avalanche's way, that they work in several processes."""
    for plugin in plugins:
        if world() > 1 and not known(plugin) and not getattr(plugin, "supports_distributed", False):
            raise ConfigError(
                f"plugin {type(plugin).__name__!r} does not say that it works in several processes (class "
                f"{type(plugin).__name__}(SupervisedPlugin, supports_distributed=True)): run without torchrun"
            )
