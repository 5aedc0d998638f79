"""Conformance checks of weights that are chosen or mixed by the image (sharing "pool")."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mtpeft.errors import ConfigError
from mtpeft.manager.loading import load
from mtpeft.manager.manager import TaskManager
from mtpeft.testing.case import Case, gradients, scalar, training
from mtpeft.testing.checks_training import MIXED, each_alone, same_gradients

#: pools that do not grow, and one that does
CHOSEN: dict[str, Any] = {"name": "pool", "size": 3}
MIXES: dict[str, Any] = {"name": "pool", "size": 3, "choose": "mix"}
GROWS: dict[str, Any] = {"name": "pool", "per_task": 1, "choose": "mix"}


def check_pool(case: Case) -> None:
    """A method whose weights can be chosen by the image runs every image under its own; another one is refused by name.

    Against one image at a time under one plain set of weights; tasks in one batch against each alone; blocks that run twice;
    saved and loaded.
    """
    cannot = _cannot(case)
    try:
        case.attach(sharing=CHOSEN)
    except ConfigError as error:
        case.require(cannot and case.name in str(error) and "\n" not in str(error), f"a pool is refused: {error}")
        return
    case.require(not cannot, "a pool takes weights that it cannot serve")
    for sharing in (CHOSEN, MIXES):
        _check_each_image(case, sharing)
    batch, manager = case.inputs(len(MIXED)).double(), training(case.manager(GROWS, double=True))
    alone, expected = each_alone(manager, batch)
    for twice in (False, True):
        manager.backbone.set_grad_checkpointing(twice)  # type: ignore[operator]
        outputs = manager(batch, MIXED)
        for task, (_, output) in outputs.items():
            case.close(output, alone[task], f"mixed batch (pool): outputs of {task}")
        found = gradients(manager, torch.stack([scalar(out) for _, out in outputs.values()]).sum())
        same_gradients(case, found, expected, f"mixed batch (pool{', checkpointing' if twice else ''})")
    _check_save(case)


def _cannot(case: Case) -> bool:
    """Whether there is nothing to choose, or what there is belongs to a task, to a step or to a batch."""
    spec, config = case.spec, case.spec.build_config(case.all_options)
    if spec.stream is not None or spec.own_weights or spec.siteless or spec.module.paced:
        return True
    (bank,) = case.attach(sharing="shared").methods[0].weights.banks()
    norms = any(isinstance(module, _BatchNorm) for module in bank.modules())
    return spec.module.needs_fit(config) or norms or not list(bank.parameters())


@torch.no_grad()
def _check_each_image(case: Case, sharing: dict[str, Any]) -> None:
    """Outputs of a batch are those of each image alone under the set it chooses, or under its own sum of all sets."""
    manager, plain = case.manager(sharing, double=True).eval(), case.manager("shared", double=True).eval()
    batch = case.inputs(3).double()
    source: Any = manager.methods[0].weights
    sets, (bank,) = list(source.common), plain.methods[0].weights.banks()
    # the images are asked for their places among the sets: keys far from each other, so that they differ
    queries = _queries(case, batch)
    for number, made in enumerate(sets):
        made.keys.add_(20 * (queries[number] - queries.mean(0)))
    plain.heads.load_state_dict(manager.heads.state_dict())
    outputs = {task: manager(batch, task) for task in ("birds", "normals")}
    for row, query in enumerate(queries):
        counts = _counts(sets, query, sharing)
        for name, parameter in bank.named_parameters():
            own = [dict(made.bank.named_parameters())[name] for made in sets]
            parameter.copy_(torch.stack([n * p for n, p in zip(counts, own, strict=True)]).sum(0))
        for task, output in outputs.items():
            expected = plain(batch[row : row + 1], task)
            case.close(output[row : row + 1], expected, f"{task} of an image under what it chose ({sharing})")


def _counts(sets: list[Any], query: torch.Tensor, sharing: dict[str, Any]) -> list[float]:
    """What each set counts for an image."""
    if sharing is MIXES:
        return [float(torch.cosine_similarity(query * s.attention[0], s.keys[0], dim=0)) for s in sets]
    found = [float(torch.cosine_similarity(query, s.keys[0], dim=0)) for s in sets]
    return [float(value == max(found)) for value in found]


def _queries(case: Case, batch: torch.Tensor) -> torch.Tensor:
    """Pooled features of the plain backbone, of clips the mean over their frames."""
    backbone: Any = case.backbone().double()
    frames = batch.transpose(1, 2) if batch.ndim == 5 else batch.unsqueeze(1)
    each = [backbone.forward_head(backbone.forward_features(x), pre_logits=True) for x in frames]
    return torch.stack([features.mean(0) for features in each])


def _check_save(case: Case) -> None:
    """A pool that has grown loads as it was saved, bit for bit."""
    manager: TaskManager = case.manager(GROWS).eval()
    with tempfile.TemporaryDirectory() as folder:
        manager.save(folder)
        loaded = load(folder, case.backbone()).eval()
    case.close(loaded.trained_state(), manager.trained_state(), "loaded weights of a pool", atol=0)
    with torch.no_grad():
        found, expected = loaded(case.inputs(2), "normals"), manager(case.inputs(2), "normals")
        case.close(found, expected, "outputs of a pool after load", atol=0)
