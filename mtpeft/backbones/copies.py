"""Copies of a backbone's modules that carry no hook."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn


def hookless_copy(module: nn.Module) -> nn.Module:
    """A copy of a leaf module with trainable parameters of its own and none of its hooks.

    `copy.deepcopy` would follow the hooks into everything they hold.
    """
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if name.endswith("_hooks") or "_hooks_" in name:
            vars(twin)[name] = OrderedDict()
        elif isinstance(value, dict):
            vars(twin)[name] = dict(value)
    for name, parameter in module.named_parameters(recurse=False):
        twin._parameters[name] = nn.Parameter(parameter.detach().clone())
    for name, buffer in module.named_buffers(recurse=False):
        twin._buffers[name] = buffer.detach().clone()
    return twin
