"""What a task keeps in memory while it is trained, in bytes: weights, gradients, the optimiser's state, activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtpeft.heads import GrowingHead
from mtpeft.manager.protocol import Managed
from mtpeft.manager.weights import trainable_parameters

RULE = (
    "Bytes per task while it is trained. Weights: of its methods and its head, buffers among them. Gradients and "
    "optimiser: of every weight it trains. Activations: what one more image adds to what its forward pass, up to the "
    "output, keeps for backward, each tensor once and no weight among them."
)
#: what the optimiser keeps is measured where none is given on this one
ASSUMED = "AdamW"
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Memory:
    """Bytes of one task. `activations` are of one image (or clip), `fixed` what is kept for backward whatever the batch."""

    method: int
    head: int
    gradients: int
    optimizer: int
    activations: int
    fixed: int


def measure_memory(
    manager: Managed,
    tasks: Sequence[str] | None = None,
    *,
    optimizer: Optimizer = torch.optim.AdamW,
    shapes: Mapping[str, Sequence[int]] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Memory]:
    """{task: its `Memory`} of `tasks` (by default all). Modes, buffers and random numbers are left as they were.

    `shapes` are (C, H, W) of a task's images or (C, T, H, W) of its clips, by default the model's own size; `optimizer`
    makes the optimiser of given parameters, `autocast` the context of the forward pass. Tasks that are alike are run once.
    """
    found: dict[Any, tuple[int, int]] = {}
    memories = {}
    for task in manager.tasks if tasks is None else tasks:
        shape = tuple((shapes or {}).get(task, manager.anatomy.input_size))
        key = (shape, _anatomy(manager, task))
        if key not in found:
            found[key] = _kept(manager, task, shape, autocast)
        methods = [m for a in manager.methods for m in a.weights.modules_of(task)]
        trained = [p for _, p in trainable_parameters(manager, task)]
        memories[task] = Memory(
            method=tensor_bytes(t for m in methods for t in (*m.parameters(), *m.buffers())),
            head=tensor_bytes(t for m in _head(manager, task) for t in (*m.parameters(), *m.buffers())),
            gradients=tensor_bytes(trained),
            optimizer=optimizer_bytes(trained, optimizer),
            activations=found[key][0],
            fixed=found[key][1],
        )
    return memories


def backbone_bytes(manager: Managed) -> int:
    """Bytes of the backbone's weights and buffers, which are there once for all tasks."""
    return tensor_bytes([*manager.backbone.parameters(), *manager.backbone.buffers()])


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct tensors."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def optimizer_bytes(parameters: Sequence[nn.Parameter], optimizer: Optimizer = torch.optim.AdamW) -> int:
    """Bytes of the state that an optimiser has for `parameters` after its first step, found out on two weights."""
    sample = nn.Parameter(torch.zeros(2))
    sample.grad = torch.zeros(2)
    made = optimizer([sample])
    made.step()
    state = [t for t in made.state[sample].values() if isinstance(t, torch.Tensor)]
    copies = sum(t.shape == sample.shape for t in state)
    single = sum(t.numel() * t.element_size() for t in state if t.shape != sample.shape)
    return sum(copies * p.numel() * p.element_size() + single for p in parameters)


def saved_bytes(forward: Callable[[], Any], excluded: Iterable[torch.Tensor]) -> int:
    """Bytes of all storages that autograd keeps for backward while `forward` runs, without those of `excluded`.

    Each counts once, however many views of it are kept. What `forward` returns is dropped, and there is no backward: nothing is
    handed to autograd to keep, which would never free what an operation saved of its own output.
    """
    skipped = {tensor.untyped_storage()._cdata for tensor in excluded}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in skipped:
            kept[storage._cdata] = storage  # held, so that its address is not given to another

    def unpack(_: None) -> torch.Tensor:
        raise RuntimeError("a forward pass that is measured has no backward")

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def _kept(
    manager: Managed, task: str, shape: tuple[int, ...], autocast: Callable[[], AbstractContextManager[Any]]
) -> tuple[int, int]:
    """Bytes kept for backward: by each image, and whatever the batch."""
    reference = next(iter(manager.backbone.parameters()))
    dtype = reference.dtype if reference.dtype.is_floating_point else None
    found = []
    with _training(manager):
        fewest = 2 if any(isinstance(m, _BatchNorm) and m.training for m in manager.modules()) else 1
        for batch in (fewest, fewest + 1):  # what is kept grows by the same with every image
            images = torch.zeros(batch, *shape, device=reference.device, dtype=dtype)
            tensors = [*manager.parameters(), *manager.buffers(), images]

            def forward(images: torch.Tensor = images) -> Any:
                with autocast():
                    return manager(images, task)

            found.append(saved_bytes(forward, tensors))
    each = found[1] - found[0]
    return each, found[0] - fewest * each


@contextmanager
def _training(manager: Managed) -> Iterator[None]:
    """In training mode, without a compiled graph; mode, buffers and random numbers are put back."""
    place = next(iter(manager.backbone.parameters())).device
    training, buffers = manager.training, [(b, b.clone()) for b in manager.buffers()]
    compiled, manager.runtime.compiled = manager.runtime.compiled, None
    try:
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), manager.runtime.trials():
            manager.train()
            yield
    finally:
        manager.train(training)
        manager.runtime.compiled = compiled
        for buffer, before in buffers:
            buffer.copy_(before)


def _head(manager: Managed, task: str) -> list[nn.Module]:
    """The task's head; of a growing one what its classes use."""
    head = manager.head(task)
    return head.used(task) if isinstance(head, GrowingHead) else [head]


def _anatomy(manager: Managed, task: str) -> Any:
    """What two tasks have in common that keep the same: heads, and modules with weights of the same shapes."""
    modules = [module for a in manager.methods for module in a.weights.modules_of(task)]
    shapes = [(type(m).__name__, [(tuple(p.shape), p.requires_grad) for p in m.parameters()]) for m in modules]
    head = manager.head(task)
    return repr((shapes, repr(head), [p.requires_grad for p in head.parameters()]))
