"""A LoRA trained with Hugging Face PEFT on a timm model, as a manager with one task."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.site import Site
from mtpeft.errors import CheckpointError, ConfigError
from mtpeft.exports.peft_folder import CONFIG, PREFIX, TYPE, WEIGHTS, classifiers
from mtpeft.manager.attach import attach, create_backbone
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS

#: what changes the maths of PEFT's LoRA beyond a product added to a linear layer, or the weights it is added to
OTHER_MATHS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
)
REWRITES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
LAYER = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")


def from_peft(folder: str | Path, backbone: str | nn.Module, *, task: str = "default") -> TaskManager:
    """A manager of `backbone` (a timm model or name) with method `lora` and one `task`, which gives what PEFT's model gives.

    The task's head is the classifier that the folder holds (`modules_to_save`), else the backbone's own. Raises
    `CheckpointError` for a damaged folder, `ConfigError` for what the method `lora` cannot hold or the backbone lacks.
    """
    config, tensors = _read(Path(folder))
    _check(config, folder)
    model: Any = create_backbone(backbone) if isinstance(backbone, str) else backbone
    products = _products(tensors, folder)
    anatomy = Anatomy(model)
    sites = _sites(anatomy, products, folder)
    scales = {path: _scale(config, path, a.shape[0]) for path, (a, _) in products.items()}
    rank = max(a.shape[0] for a, _ in products.values())
    common = len(set(scales.values())) == 1
    kinds = sorted({site.kind for site in sites})
    left_out = {s.path for s in anatomy.sites if s.kind in kinds} - products.keys()
    manager = attach(
        model,
        _method(),
        sites=tuple(kinds),
        exclude=tuple(sorted(left_out)),
        rank=rank,
        alpha=next(iter(scales.values())) * rank if common else None,
        dropout=float(config.get("lora_dropout") or 0.0),
    )
    try:
        if {site.key for site in manager.methods[0].selected} != {site.key for site in sites}:
            raise ConfigError(
                f"{folder} adapts a layer as a whole and another by rows of the same kind, which {_method()!r} cannot"
            )
        _add_head(manager, tensors, task, folder)
        _copy(manager, task, products, dict.fromkeys(scales, 1.0) if common else scales, folder)
    except Exception:
        manager.detach()
        raise
    return manager


def _method() -> str:
    """The method that is the same as PEFT's."""
    return next(name for name in METHODS if METHODS.get(name).module.peft_type == TYPE)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{folder} is no folder of PEFT: it lacks {CONFIG} or {WEIGHTS}") from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged ({' '.join(str(error).split())}); take another copy") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG} is damaged: it is no mapping; take another copy")
    return config, tensors


def _check(config: Mapping[str, Any], folder: Any) -> None:
    kind = config.get("peft_type")
    if kind != TYPE:
        raise ConfigError(f"{folder} holds {kind!r}; from_peft reads {TYPE}")
    used = [key for key in OTHER_MATHS if config.get(key)]
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(REWRITES_THE_BASE):
        used.append(f"init_lora_weights={init!r}")
    if used:
        raise ConfigError(f"{folder} uses {used[0]}, which the method {_method()!r} does not have")


def _products(tensors: Mapping[str, torch.Tensor], folder: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By path of a linear layer: A (k, in) and B (out, k)."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if match := LAYER.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = tensor.float()
    for path, pair in found.items():
        if any(tensor.ndim == 4 for tensor in pair.values()):
            raise ConfigError(
                f"{folder} adapts {path}, which is a convolution; the method {_method()!r} acts on linear layers"
            )
        if len(pair) != 2 or any(t.ndim != 2 for t in pair.values()) or pair["A"].shape[0] != pair["B"].shape[1]:
            raise CheckpointError(f"{folder}: the weights of {path} are no pair of matrices A (k, in) and B (out, k)")
    if not found:
        raise CheckpointError(f"{folder} holds no weights of type {TYPE}")
    return {path: (pair["A"], pair["B"]) for path, pair in found.items()}


def _sites(anatomy: Anatomy, products: Mapping[str, Any], folder: Any) -> list[Site]:
    """The sites of every layer: one that is all of it, or those of its rows, as k and v of a fused kv."""
    found: list[Site] = []
    name = type(anatomy.backbone).__name__
    for path, (a, b) in products.items():
        own = [site for site in anatomy.sites if site.path == path and site.matrix and not site.bypassed]
        chosen = [site for site in own if site.rows is None][:1] or own
        if not chosen:
            raise ConfigError(f"{folder} adapts {path}, which is no linear layer of {name} that {_method()!r} acts on")
        given, expected = (b.shape[0], a.shape[1]), (sum(site.dim_out for site in chosen), chosen[0].dim)
        if given != expected:
            raise ConfigError(f"{folder}: {path} has {given} weights, that of this backbone {expected}")
        found += chosen
    return found


def _scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """alpha / rank of a layer, or alpha / sqrt(rank); a pattern is a regular expression of the end of a path."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", path)), config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _add_head(manager: TaskManager, tensors: Mapping[str, torch.Tensor], task: str, folder: Any) -> None:
    """The task's head; every tensor of the folder must have a place."""
    model: Any = manager.backbone
    own = classifiers(model)
    names = [name for name, module in model.named_modules() if module in own]
    kept = {name: t for name, t in tensors.items() if not LAYER.fullmatch(name)}
    heads = [{leaf: kept.pop(f"{PREFIX}{n}.{leaf}", None) for leaf in ("weight", "bias")} for n in names]
    if kept:
        raise ConfigError(
            f"{folder} holds {next(iter(kept)).removeprefix(PREFIX)}, for which the method {_method()!r} has no place"
        )
    given = [head for head in heads if head["weight"] is not None]
    if not given:
        if len(own) != 1:
            raise ConfigError(
                f"{folder} holds no classifier, and {type(model).__name__} has two: one head cannot stand for both"
            )
        manager.add_task(task, head=own[0])
        return
    weight, bias = given[0]["weight"], given[0]["bias"]
    assert weight is not None
    if len(given) != len(own) or any(not _same(head, given[0]) for head in given):
        raise ConfigError(f"{folder}: the classifiers of {type(model).__name__} differ; one head cannot stand for both")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({leaf: tensor for leaf, tensor in given[0].items() if tensor is not None})
    if bias is None:
        manager.add_task(task, head=layer)
        return
    manager.add_task(task, num_classes=len(weight))
    head: Any = manager.head(task)
    if head.fc.weight.shape != weight.shape:
        raise ConfigError(
            f"{folder}: its classifier takes {weight.shape[1]} features, this backbone gives {manager.feature_dim}"
        )
    head.fc.load_state_dict(layer.state_dict())


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in ((one[k], other[k]) for k in one)
    )


@torch.no_grad()
def _copy(
    manager: TaskManager,
    task: str,
    products: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    scales: Mapping[str, float],
    folder: Any,
) -> None:
    """Write the products where they belong; what is left of a rank that is smaller than others stays zero."""
    attachment = manager.methods[0]
    bank = attachment.weights.bank(task)
    for site in attachment.selected:
        module: Any = bank.sites[site.key]
        a, b = products[site.path]
        b = b if site.rows is None else b[slice(*site.rows)]
        module.lora_A.zero_()[: len(a)] = a.to(module.lora_A)
        module.lora_B.zero_()[:, : len(a)] = (b * scales[site.path]).to(module.lora_B)
