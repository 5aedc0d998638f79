"""Batch norm over one value: an image alone in its batch, at a place whose map is 1 x 1, has no variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

#: what to do about it, for messages
REMEDY = "give it two or more images, or a head whose norm looks at one image: norm_cfg=dict(type='GN', num_groups=...)"


def norms_of_one_value(model: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Names of the batch norms that would train on one value per channel if a batch were the one image that `run` shows.

    `run` calls the model, which is in evaluation mode meanwhile; it is called only when some batch norm is trained. Modes
    and random numbers are left as they were.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train()
        trained = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training}
        model.eval()
        return _of_one_value(trained, run) if trained else []
    finally:
        for module, mode in modes:
            module.training = mode


def _of_one_value(norms: dict[str, _BatchNorm], run: Callable[[], Any]) -> list[str]:
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1]:
                found.append(name)

        return look

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in norms.items()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
