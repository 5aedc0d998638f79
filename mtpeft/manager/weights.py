"""Which weights of a manager are whose: those of one task alone stand below a module named after it, all others are common.

So what concerns one task is found without a walk through the others', however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mtpeft.manager.protocol import Managed

COMMON = ""
"""The group of weights that belong to no task alone."""
_OWN = "task="


def own_key(task: str) -> str:
    """The name of the modules that belong to `task` alone, in whatever `nn.ModuleDict` they stand."""
    return f"{_OWN}{task}"


def trainable_parameters(manager: Managed, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained, each once; with `task`, those the task uses."""
    if task is None:
        found = manager.named_parameters()
        used = None
    else:
        found = _named_parameters(manager, task)
        used = {p for module in manager.used_modules(task) for p in module.parameters()}
    for name, parameter in found:
        if parameter.requires_grad and (used is None or parameter in used):
            yield name, parameter


def trained_state(manager: Managed) -> dict[str, torch.Tensor]:
    """Everything that is trained or mutated, by name: methods, heads, and the backbone where it is trained."""
    moving = _moving(manager)
    state = manager.state_dict()
    return {n: t for n, t in state.items() if not n.startswith("backbone.") or n.removeprefix("backbone.") in moving}


def trained_state_by_task(manager: Managed, tasks: Iterable[str] | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """`trained_state` in groups: the common weights under "", and those of each of `tasks` (by default all) alone."""
    common: dict[str, torch.Tensor] = {}
    for path, module in _common_modules(manager):
        if path != "backbone" and not path.startswith("backbone."):
            common.update(_own_tensors(path, module))
    moving = _moving(manager)
    if moving:
        state = manager.backbone.state_dict()
        common.update({f"backbone.{name}": state[name] for name in state if name in moving})
    groups = {COMMON: common}
    for task in manager.tasks if tasks is None else tasks:
        own = {}
        for path, module in _modules_of(manager, task):
            own.update(module.state_dict(prefix=f"{path}."))
        groups[task] = own
    return groups


def set_mode(modules: Iterable[nn.Module], mode: bool) -> None:
    """`train(mode)` of all `modules` and what is below them, in a fraction of the time: tasks may be thousands."""
    stack = list(modules)
    while stack:
        module = stack.pop()
        if type(module).train is not nn.Module.train:
            module.train(mode)
            continue
        module.__dict__["training"] = mode
        stack.extend(child for child in module._modules.values() if child is not None)


def _moving(manager: Managed) -> set[str]:
    """Names of the backbone's tensors that training changes."""
    moving = set(manager.owned)
    if manager.owned and manager.backbone_train_mode:  # then its buffers may move too
        moving |= {name for name, _ in manager.backbone.named_buffers()}
    return moving


def _common_modules(manager: Managed) -> Iterator[tuple[str, nn.Module]]:
    """All modules of the manager by path, without those that belong to one task."""
    for name, child in manager.named_children():
        yield from _without_tasks(name, child)


def _without_tasks(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is not None and not name.startswith(_OWN):
            yield from _without_tasks(f"{path}.{name}", child)


def _modules_of(manager: Managed, task: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that belong to the task alone, by path."""
    key = own_key(task)
    for path, module in _common_modules(manager):
        if isinstance(module, nn.ModuleDict) and key in module:
            yield f"{path}.{key}", module[key]


def _named_parameters(manager: Managed, task: str) -> Iterator[tuple[str, nn.Parameter]]:
    seen: set[nn.Parameter] = set()
    for path, module in _common_modules(manager):
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield name, parameter
    for path, module in _modules_of(manager, task):
        for name, parameter in module.named_parameters(prefix=path):
            if parameter not in seen:
                seen.add(parameter)
                yield name, parameter


def _own_tensors(path: str, module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The module's own parameters and saved buffers, without those of modules below it."""
    for name, parameter in module.named_parameters(recurse=False):
        yield f"{path}.{name}", parameter.detach()
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield f"{path}.{name}", buffer
