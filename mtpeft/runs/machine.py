"""What a run asks of the machine beside its device: threads, matrix products, checkpoints, memory format, a compiled graph.

Nothing asked for is left out in silence: what this model cannot have is an error, what this machine cannot give is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.evaluation.run_facts import device_name
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.compiled import Compiled
from mtpeft.manager.features import extract
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.training import Training

Message = Callable[[str], None]


def fit(manager: TaskManager, training: Training, batch: int, message: Message) -> None:
    """Prepare the model as the section `training` asks; `batch` images are a batch of this process.

    Raises `ConfigError` for what has no effect on this model.
    """
    if training.grad_checkpointing:
        _checkpoint(manager)
    if training.channels_last:
        if not any(isinstance(module, nn.Conv2d) for module in manager.modules()):
            raise ConfigError("training.channels_last has no effect: the model has no convolution; leave it out")
        manager.to(memory_format=torch.channels_last)
        manager.runtime.channels_last = True
    if training.compile:
        manager.runtime.compiled = Compiled(manager.backbone, batch, message)


def described(device: torch.device) -> str:
    """What is said of the machine when a run starts or goes on."""
    threads = torch.get_num_threads()
    return f"device: {device_name(device)}, {threads} thread{'s' * (threads > 1)}"


@contextmanager
def matrix_products(training: Training, device: torch.device, message: Message) -> Iterator[None]:
    """The precision of float32 matrix products that `training` asks for, as long as the context; tells where it is none."""
    wanted, before = training.matmul_precision, torch.get_float32_matmul_precision()
    if wanted is None:
        yield
        return
    try:
        plain = _product("highest", device)
        if wanted != "highest" and torch.equal(plain, _product(wanted, device)):
            message(
                f"training.matmul_precision {wanted!r} changes nothing here: {device.type} multiplies float32 exactly"
            )
        torch.set_float32_matmul_precision(wanted)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _product(precision: str, device: torch.device) -> torch.Tensor:
    """One product of fixed matrices in that precision."""
    torch.set_float32_matmul_precision(precision)
    matrix = torch.linspace(-1, 1, 256 * 256, device=device).view(256, 256).sin()
    return matrix @ matrix


def _checkpoint(manager: TaskManager) -> None:
    """Switch timm's gradient checkpointing on. `ConfigError` where there is none, or nothing to run again."""
    backbone: Any = manager.backbone
    name = type(backbone).__name__
    with suppress(AttributeError, AssertionError, NotImplementedError):
        backbone.set_grad_checkpointing(True)
    if not any(getattr(module, "grad_checkpointing", False) for module in backbone.modules()):
        raise ConfigError(f"training.grad_checkpointing: timm's {name} has none; leave it out")
    if not _blocks_have_gradients(manager):
        raise ConfigError(
            "training.grad_checkpointing has no effect: no gradient passes through the backbone's blocks, so that nothing of "
            "them is kept; leave it out"
        )


def _blocks_have_gradients(manager: TaskManager) -> bool:
    """Whether the output of some block depends on a trained weight; two images of zeros are shown."""
    found: list[bool] = []
    blocks = [manager.backbone.get_submodule(path) for path in manager.anatomy.blocks]
    handles = [b.register_forward_hook(lambda m, args, out: found.append(bool(out.requires_grad))) for b in blocks]
    images = torch.zeros(2, *manager.anatomy.input_size, device=next(manager.backbone.parameters()).device)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), manager.runtime.trials():
            extract(manager, images, Selection(tuple(manager.tasks[:1]) or ("",)), ("pooled",))
    finally:
        for handle in handles:
            handle.remove()
    return any(found)
