"""How many weights a task trains, by kind, under one stated rule."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.heads import GrowingHead
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.memory import ASSUMED, Memory, backbone_bytes, measure_memory
from mtpeft.manager.memory import RULE as BYTE_RULE
from mtpeft.manager.pace import deleted_weights
from mtpeft.manager.protocol import Managed
from mtpeft.methods import MethodConfig, MethodSpec

RULE = (
    "Counted per task: every trainable weight its output depends on, shared ones included, each once. "
    "method: weights a method adds; norm and bias: trained copies of the backbone's own norm and bias weights; "
    "backbone: the backbone's own weights when they are trained (without its classifier); head: the task's head; "
    "buffers: saved but not trained. Percent is of the backbone without its classifier."
)


@dataclass(frozen=True)
class Counts:
    """Weights of one task by kind."""

    method: int
    norm_bias: int
    backbone: int
    head: int
    buffers: int
    frozen: int

    @property
    def total(self) -> int:
        """All trainable weights, head included."""
        return self.method + self.norm_bias + self.backbone + self.head


def count(manager: Managed, task: str) -> Counts:
    """Count the weights of one task."""
    method = norm_bias = buffers = 0
    for attachment in manager.methods:
        modules: list[nn.Module] = attachment.weights.modules_of(task)
        trained = sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
        trained -= deleted_weights(modules) if trained and attachment.spec.module.paced else 0
        buffers += sum(_saved_buffers(module) for module in modules)
        if attachment.constants is not None:
            buffers += sum(saved.numel() for saved in attachment.constants.state_dict().values())
        if attachment.spec.properties.no_added_modules:
            norm_bias += trained
        else:
            method += trained
    head = manager.head(task)
    heads = head.used(task) if isinstance(head, GrowingHead) else [head]
    own = sum(p.numel() for p in manager.backbone.parameters() if p.requires_grad)
    return Counts(
        method=method,
        norm_bias=norm_bias,
        backbone=own,
        head=sum(p.numel() for part in heads for p in part.parameters() if p.requires_grad),
        buffers=buffers + sum(_saved_buffers(part) for part in heads),
        frozen=backbone_size(manager) - own,
    )


def _saved_buffers(module: nn.Module) -> int:
    """Sizes of the buffers that are saved: what is computed anew from the backbone is not."""
    parts = module.modules()
    return sum(
        b.numel()
        for part in parts
        for name, b in part.named_buffers(recurse=False)
        if name not in part._non_persistent_buffers_set
    )


def backbone_size(manager: Managed) -> int:
    """Weights of the backbone without its classifier."""
    from mtpeft.backbones.fingerprint import classifier_parameters

    classifier = classifier_parameters(manager.backbone)
    return sum(p.numel() for p in manager.backbone.parameters() if p not in classifier)


def render_table(
    manager: Managed, width: int, memories: Mapping[str, Memory] | None = None, optimizer: str = ASSUMED
) -> str:
    """The counts of all tasks, and their bytes with an optimiser, as text `width` columns wide; `memories` where known."""
    from rich.console import Console

    from mtpeft.printing import print_table, print_text, size_text

    size = backbone_size(manager)
    methods = " + ".join(f"{a.spec.name} ({a.sharing_name})" for a in manager.methods)
    head = ["task", "method", "norm and bias", "backbone", "head", "buffers", "trained", "percent"]
    rows = []
    for task in manager.tasks:
        c = count(manager, task)
        cells = [f"{n:,}" for n in (c.method, c.norm_bias, c.backbone, c.head, c.buffers, c.total)]
        name = f"{task} (frozen)" if task in manager.frozen_tasks else task
        rows.append([name, *cells, f"{100 * c.total / size:.2f} %"])
    text = io.StringIO()
    console = Console(width=width, file=text)
    title = f"{manager.backbone.__class__.__name__} ({size:,} weights) with {methods}"
    print_table(console, head, rows, title=title)
    print_text(console, f"all tasks, each weight once: {manager.num_trainable():,}")
    print_text(console, RULE)
    if memories is None:
        memories = measure_memory(manager)
    if memories:
        head = ["task", "method", "head", "gradients", f"optimiser ({optimizer})", "activations of one more"]
        rows = []
        for task, m in memories.items():
            sizes = (m.method, m.head, m.gradients, m.optimizer, m.activations)
            rows.append([task, *map(size_text, sizes)])
        title = f"bytes in training; the backbone, once for all tasks: {size_text(backbone_bytes(manager))}"
        print_table(console, head, rows, title=title)
        print_text(console, BYTE_RULE)
    return text.getvalue().rstrip()


def weights_on(spec: MethodSpec, config: MethodConfig, anatomy: Anatomy) -> int:
    """How many weights the method trains for one task, heads apart. Raises `ConfigError` where the backbone cannot have it."""
    with torch.device("meta"):
        attachment = Attachment(spec, config, anatomy, spec.sharings[-1])
        attachment.weights.add_task("one")
    owned = spec.owned(config, anatomy) if spec.owned is not None else ()
    added = sum(p.numel() for module in attachment.weights.modules_of("one") for p in module.parameters())
    return added + sum(anatomy.backbone.get_parameter(name).numel() for name in owned)
