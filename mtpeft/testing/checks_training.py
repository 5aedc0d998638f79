"""Conformance checks of training: who gets gradients, mixed batches, checkpointing, mixed precision, learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mtpeft.manager.manager import TaskManager
from mtpeft.testing.case import TASKS, Case, gradients, images, mixed_path, perturb, scalar, training

MIXED = ["birds", "depth", "cars", "birds", "normals", "cars", "birds", "depth"]


def check_gradients(case: Case) -> None:
    """Only weights the task uses get a gradient, and all of them do.

    Task streams of all stages are seen by a head that reads all stages; what a method for clips does to patches and to
    pooled features, or one with scales of its own to both, is seen by two heads.
    """
    two = case.temporal or case.scales
    manager = training(case.manager("shared" if two else case.sharings[0]))
    tasks = ("birds", "normals") if two else ("birds",) if case.spec.stream is None else ("normals",)
    loss = torch.stack([scalar(manager(case.inputs(), task)) for task in tasks]).sum()
    found = gradients(manager, loss)
    used = {name for task in tasks for name, _ in manager.trainable_parameters(task)}
    missing, extra = sorted(used - found.keys()), sorted(found.keys() - used)
    if case.spec.own_weights:  # a backbone may own weights its features do not pass through
        missing = [name for name in missing if not name.startswith("backbone.")]
    case.require(not missing, f"no gradient for {missing[:3]}")
    case.require(not extra, f"a gradient for {extra[:3]}, which the task does not use")
    grouped = {id(p) for group in manager.parameter_groups(1e-3) for p in group["params"]}
    case.require({id(p) for _, p in manager.trainable_parameters()} == grouped, "weights are in no parameter group")
    case.require(all(g.isfinite().all() for g in found.values()), "a gradient is not finite")
    # softmax does not see a bias common to all keys, so its gradient is zero up to rounding
    keys = tuple(f"sites.{s.key}." for a in manager.methods for s in a.selected if s.kind == "k")
    dead = [n for n, g in found.items() if not g.any() and not any(key in n for key in keys)]
    case.require(not dead or case.spec.own_weights, f"the gradient of {dead[:3]} is exactly zero")


def check_mixed(case: Case) -> None:
    """A batch with several tasks equals each task alone, in outputs and in gradients, on both mixed paths.

    In double precision: deep networks enlarge what rounding leaves.
    """
    batch = case.inputs(len(MIXED)).double()
    for sharing in case.sharings:
        manager = training(case.manager(sharing, double=True))
        alone, expected = each_alone(manager, batch)
        for slice_above in (0.0, float("inf")) if sharing == "per_task" else (float("inf"),):
            with mixed_path(slice_above):
                outputs = manager(batch, MIXED)
                loss = torch.stack([scalar(out) for _, out in outputs.values()]).sum()
                found = gradients(manager, loss)
            where = f"mixed batch ({sharing}, {'slices' if slice_above == 0 else 'gathered weights'})"
            case.require(
                list(outputs) == ["birds", "depth", "cars", "normals"], f"{where}: tasks come as {list(outputs)}"
            )
            for task, (rows, output) in outputs.items():
                case.require(rows.tolist() == _rows(task), f"{where}: rows of {task} are {rows.tolist()}")
                case.close(output, alone[task], f"{where}: outputs of {task}")
            same_gradients(case, found, expected, where)


def check_forward_tasks(case: Case) -> None:
    """Several tasks for every image at once equal each task alone, in outputs and in gradients; in double as above."""
    batch = case.inputs().double()
    for sharing in case.sharings:
        manager = training(case.manager(sharing, double=True))
        alone = {task: manager(batch, task) for task in TASKS}
        expected = gradients(manager, torch.stack([scalar(out) for out in alone.values()]).sum())
        outputs = manager.forward_tasks(batch, list(TASKS))
        for task in TASKS:
            case.close(outputs[task], alone[task], f"forward_tasks ({sharing}): output of {task}")
        found = gradients(manager, torch.stack([scalar(out) for out in outputs.values()]).sum())
        same_gradients(case, found, expected, f"forward_tasks ({sharing})")


def _rows(task: str) -> list[int]:
    return [row for row, name in enumerate(MIXED) if name == task]


def each_alone(manager: TaskManager, batch: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs per task, and gradients added up over the tasks, one backward per task."""
    outputs: dict[str, torch.Tensor] = {}
    total: dict[str, torch.Tensor] = {}
    for task in TASKS:
        output = manager(batch[_rows(task)], task)
        outputs[task] = output.detach()
        for name, gradient in gradients(manager, scalar(output)).items():
            total[name] = total[name] + gradient if name in total else gradient
    return outputs, total


def same_gradients(case: Case, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: str) -> None:
    """Equal gradients; a weight without a gradient counts as one with zeros."""
    for name in found.keys() | expected.keys():
        reference = found.get(name, expected.get(name))
        assert reference is not None
        zero = torch.zeros_like(reference)
        case.close(found.get(name, zero), expected.get(name, zero), f"{where}: gradient of {name}")


def check_checkpointing(case: Case) -> None:
    """Gradient checkpointing changes no gradient, with two tasks' and a mixed forward before one backward."""
    manager = training(case.manager())
    batch = case.inputs(3)

    def three_forwards() -> dict[str, torch.Tensor]:
        first, second, mixed = (
            manager(batch, "birds"),
            manager(batch, "cars"),
            manager(batch, ["birds", "cars", "depth"]),
        )
        return gradients(
            manager, torch.stack([scalar(out) for out in (first, second, *(o for _, o in mixed.values()))]).sum()
        )

    expected = three_forwards()
    manager.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    same_gradients(case, three_forwards(), expected, "three forwards under gradient checkpointing")


def check_autocast(case: Case) -> None:
    """bfloat16 autocast runs, single and mixed, stays finite and near float32, and trains.

    How near depends on the backbone, on the processor (which rounds sums in its own way) and on how much the method makes of
    a small difference, so two distances are measured beside it: the plain backbone's own, and that of outputs in float32 after
    the backbone's weights alone were rounded.
    """
    manager = training(case.manager())
    with torch.no_grad():
        expected = manager(case.inputs(), "birds")
    bound = 0.1 + 2 * max(_plain_autocast_error(case), _error_of_rounded_weights(case, manager, expected))
    with torch.autocast("cpu", torch.bfloat16):
        output = manager(case.inputs(), "birds")
        mixed = manager(case.inputs(), ["birds", "cars", "birds", "cars"])
    case.require(bool(output.isfinite().all()), "autocast gives outputs that are not finite")
    error = _distance(output, expected)
    case.require(error < bound, f"autocast moves outputs by {error:.3f} of their size, more than {bound:.3f}")
    rows, part = mixed["birds"]
    error = _distance(part, expected[rows])
    case.require(error < bound, f"autocast moves outputs of a mixed batch by {error:.3f} of their size")
    found = gradients(manager, scalar(output.float()) + scalar(mixed["cars"][1].float()))
    case.require(all(g.isfinite().all() for g in found.values()), "autocast gives gradients that are not finite")


@torch.no_grad()
def _plain_autocast_error(case: Case) -> float:
    """By how much of their size autocast moves the pooled features of the backbone without a method."""
    backbone: Any = case.backbone()
    expected = backbone.forward_head(backbone.forward_features(images()), pre_logits=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone.forward_head(backbone.forward_features(images()), pre_logits=True)
    return _distance(found, expected)


@torch.no_grad()
def _error_of_rounded_weights(case: Case, manager: TaskManager, expected: torch.Tensor) -> float:
    """By how much of their size outputs move where the backbone's weights are rounded to bfloat16."""
    kept = [parameter.clone() for parameter in manager.backbone.parameters()]
    for parameter in manager.backbone.parameters():
        parameter.copy_(parameter.bfloat16())
    moved = _distance(manager(case.inputs(), "birds"), expected)
    for parameter, value in zip(manager.backbone.parameters(), kept, strict=True):
        parameter.copy_(value)
    return moved


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


def check_compile(case: Case) -> None:
    """`torch.compile` of a forward and of a mixed forward: one graph each, equal outputs and gradients."""
    manager = training(case.manager())
    batch, index = case.inputs(), torch.tensor([0, 1, 1, 0])

    def single(x: torch.Tensor) -> torch.Tensor:
        return manager(x, "birds")

    def several(x: torch.Tensor, tasks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = manager.forward_indexed(x, ("birds", "cars"), tasks)
        return outputs["birds"][1], outputs["cars"][1]

    def mixed_gradients(run: Any) -> dict[str, torch.Tensor]:
        first, second = run(batch, index)
        return gradients(manager, scalar(first) + scalar(second))

    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(single, backend="aot_eager", fullgraph=True)
        case.close(compiled(batch), single(batch), "compiled outputs")
        same_gradients(
            case, gradients(manager, scalar(compiled(batch))), gradients(manager, scalar(single(batch))), "compiled"
        )
        compiled_several = torch.compile(several, backend="aot_eager", fullgraph=True)
        same_gradients(case, mixed_gradients(compiled_several), mixed_gradients(several), "compiled mixed")


def check_learns(case: Case) -> None:
    """The loss on sixteen images falls by more than 30 % within 30 steps of Adam, at one of two learning rates.

    Where the method has weights, they alone are trained: the head stays as it is drawn. Most images are of one class,
    so that methods that move all images alike can learn too.
    """
    losses = _losses(case, 0.02)
    if min(losses) >= 0.7 * losses[0]:  # large scales overshoot
        losses = _losses(case, 0.002)
    case.require(min(losses) < 0.7 * losses[0], f"the loss fell from {losses[0]:.3f} to {min(losses):.3f} only")


def _losses(case: Case, rate: float) -> list[float]:
    torch.manual_seed(0)
    manager = training(case.attach())
    case.add_task(manager, "birds", num_classes=4)
    head = manager.head("birds")
    nn.init.normal_(head.fc.weight, std=0.5)  # type: ignore[union-attr, arg-type]
    perturb(manager, std=0.01)
    own = [p for _, p in manager.trainable_parameters() if p not in set(head.parameters())]
    optimizer = torch.optim.Adam(own or head.parameters(), lr=rate)
    batch, labels = case.inputs(16), torch.tensor([0] * 13 + [1, 2, 3])
    losses = []
    for _ in range(31):
        loss = nn.functional.cross_entropy(manager(batch, "birds"), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
