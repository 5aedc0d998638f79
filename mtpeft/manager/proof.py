"""Attaching proves that it runs: one probing forward under the methods, of which nothing is left behind."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import FRAME_STYLES
from mtpeft.errors import ConfigError
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract, flat
from mtpeft.manager.manager import TaskManager

#: the task of the probing forward; no user can give it, since a task's name holds no brackets
PROBING = "<probing>"
#: frames of the probing clip, where a method does not fix their number
FRAMES = 2


def prove(manager: TaskManager) -> None:
    """Run two zero images (a clip, where a method sees frames together) and look at what comes out.

    Features must have the shapes the plain backbone gives, and every weight of the methods must reach them: the graph of
    the forward is walked, no backward runs and no activation is kept. Weights of a probing task are made and dropped;
    random states and modes are as before. Raises `ConfigError` with the reason, or whatever a method raises.
    """
    methods: list[Any] = list(manager.methods)
    if not any(attachment.selected for attachment in methods):
        return
    with _untouched(manager, methods), manager.runtime.trials():
        for attachment in methods:
            attachment.weights.add_task(PROBING)
        reference = next(manager.backbone.parameters())
        for attachment in methods:
            attachment.to(device=reference.device, dtype=reference.dtype)
        for module in manager.modules():
            module.training = False
        images = _images(manager, methods, reference)
        tracked = not torch.is_inference_mode_enabled()
        with torch.set_grad_enabled(tracked), torch.autograd.graph.saved_tensors_hooks(_drop, _never):
            features = extract(manager, images, Selection((PROBING,)), _kinds(manager))
        _compare_shapes(manager, features, images)
        if tracked:
            _compare_weights(manager, methods, flat(features))
        for attachment in methods:
            attachment.weights.remove_task(PROBING)


@contextmanager
def _untouched(manager: TaskManager, methods: Iterable[Any]) -> Iterator[None]:
    """Random states (torch's on all devices in use, Python's) and every module's mode as before."""
    modes = [(module, module.training) for module in manager.modules()]
    state = random.getstate()
    used = {p.device for p in manager.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(sorted(device.index or 0 for device in used)):
            yield
    finally:
        random.setstate(state)
        for module, mode in modes:
            module.training = mode


def _images(manager: TaskManager, methods: Iterable[Any], like: torch.Tensor) -> torch.Tensor:
    """Two images (2, C, H, W), or one clip (1, C, T, H, W)."""
    channels, height, width = manager.anatomy.input_size
    clips = [a for a in methods if any(site.style in FRAME_STYLES for site in a.selected)]
    if not clips:
        return torch.zeros(2, channels, height, width, device=like.device, dtype=like.dtype)
    frames = max(int(getattr(attachment.config, "num_frames", FRAMES)) for attachment in clips)
    return torch.zeros(1, channels, frames, height, width, device=like.device, dtype=like.dtype)


def _kinds(manager: TaskManager) -> list[str]:
    """Every kind of features that the plain backbone has."""
    anatomy = manager.anatomy
    return ["pooled", *(["map"] if anatomy.final_map else []), *(["stages"] if anatomy.stage_maps else [])]


def _compare_shapes(manager: TaskManager, features: dict[str, Any], images: torch.Tensor) -> None:
    anatomy, count = manager.anatomy, images.shape[0]
    expected = {"pooled": (count, *anatomy.shapes.pooled[1:-1], manager.feature_dim)}
    lead = images.shape[:1] if images.ndim == 4 else (count, images.shape[2])
    if anatomy.final_map:
        width = anatomy.shapes.features[1 if anatomy.layout == "NCHW" else -1]
        expected["map"] = (*lead, width, *anatomy.grid)
    for kind, shape in expected.items():
        if tuple(features[kind].shape) != tuple(shape):
            found = tuple(features[kind].shape)
            raise ConfigError(f"under it the {kind} features have shape {found}, expected {tuple(shape)}")


def _compare_weights(manager: TaskManager, methods: Iterable[Any], features: Iterable[torch.Tensor]) -> None:
    """Refuse weights that neither a feature nor a declared loss depends on: they would never be trained."""
    used = {p for a in methods for module in a.weights.modules_of(PROBING) for p in module.parameters()}
    lost = used - _leaves(features) - {p for a in methods for p in a.weights.by_losses()}
    names = sorted(name for name, p in manager.named_parameters() if p in lost and p.requires_grad)
    names = [name.partition("weights.")[2].replace(f"tasks.task={PROBING}.", "") for name in names]
    if names:
        raise ConfigError(f"the features do not depend on its weights {', '.join(names[:2])} ({len(names)} in all)")


def _leaves(tensors: Iterable[torch.Tensor]) -> set[nn.Parameter]:
    """The leaves of the graph behind `tensors`."""
    waiting: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen, leaves = set(waiting), set()
    while waiting:
        node = waiting.pop()
        if (variable := getattr(node, "variable", None)) is not None:
            leaves.add(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return leaves


def _drop(_: torch.Tensor) -> None:
    """No activation is kept."""


def _never(_: Any) -> torch.Tensor:
    raise RuntimeError("the probing forward has no backward")
