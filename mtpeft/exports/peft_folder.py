"""`--to peft`: LoRA as a folder that `peft.PeftModel.from_pretrained(timm_model, FOLDER)` reads.

PEFT puts one A (k, in) and one B (out, k) at a whole linear layer; our sites may be rows of one, as q and v of a fused
qkv. The same product then has the sites' As one above the other and their Bs in blocks, zero where the rows or columns are
another site's: the rank k is the sum of theirs, and the scale alpha / rank stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mtpeft.exports.copies import copied, inputs
from mtpeft.exports.graph import LARGE, SMALL, difference, needs, quiet
from mtpeft.exports.request import Request, Written
from mtpeft.manager.merging import as_linear

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: the one kind of adapter that is translated: a low-rank product added to a linear layer
TYPE = "LORA"
#: what PEFT writes before the name of a module of the model
PREFIX = "base_model.model."


@torch.no_grad()
def to_peft(request: Request, folder: Path) -> Written:
    """adapter_model.safetensors and adapter_config.json, compared as PEFT loads them onto the backbone."""
    needs("peft")
    _check(request)
    manager, task = request.manager, request.task
    products = _products(request)
    merged: Any = manager.merge(task)
    heads = {name: module for name, module in merged.named_modules() if module in classifiers(merged)}
    if not all(isinstance(module, nn.Linear) for module in heads.values()):
        raise request.refusal("the backbone's classifier is no linear layer, so PEFT has no place for the head")
    tensors = {
        f"{PREFIX}{path}.lora_{which}.weight": t
        for path, ab in products.items()
        for which, t in zip("AB", ab, strict=True)
    }
    for name, module in heads.items():
        tensors.update({f"{PREFIX}{name}.{leaf}": tensor for leaf, tensor in module.state_dict().items()})
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)
    config = _config(request, {path: a.shape[0] for path, (a, _) in products.items()}, list(heads))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return Written(WEIGHTS, _compare(request, folder), "kept")


def classifiers(model: Any) -> list[nn.Module]:
    """A timm model's classifier, or both of a distilled one."""
    found = model.get_classifier()
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _check(request: Request) -> None:
    """Raise `ConfigError` for what PEFT cannot hold."""
    others = [a.spec.name for a in request.manager.methods if a.spec.module.peft_type != TYPE]
    if others or len(request.manager.methods) != 1:
        reason = f"method {others[0]!r} is none of PEFT's" if others else "two methods act together"
        raise request.refusal(
            f"a PEFT folder holds one adapter of type {TYPE}, and {reason}; use --to onnx or --to torch"
        )
    attachment = request.manager.methods[0]
    if attachment.weights.members > 1:
        raise request.refusal(
            f"sharing {attachment.sharing_name!r} predicts by several copies of the weights, PEFT by one"
        )
    bypassed = [site.path for site in attachment.selected if site.bypassed]
    if bypassed:
        raise request.refusal(
            f"its attention reads the weights of {bypassed[0]} past the layer, where PEFT's adapter has no effect"
        )
    if as_linear(request.manager.head(request.task)) is None:
        raise request.refusal("PEFT keeps a linear head only; use --to onnx or --to torch")
    if request.frames is not None:
        raise request.refusal("a timm model takes images, and the task is one of clips; use --to onnx or --to torch")


def _products(request: Request) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By path of a linear layer: A (k, in) and B (out, k)."""
    attachment = request.manager.methods[0]
    bank = attachment.weights.bank(request.task)
    parts: dict[str, list[Any]] = {}
    for site in attachment.selected:
        parts.setdefault(site.path, []).append(site)
    products = {}
    for path, sites in parts.items():
        layer: Any = request.manager.backbone.get_submodule(path)
        out = layer.weight.shape[0]
        above, blocks = [], []
        for site in sites:
            module: Any = bank.sites[site.key]
            left, right = module.product(**bank.common)
            block = left.new_zeros(out, left.shape[1])
            block[slice(None) if site.rows is None else slice(*site.rows)] = (
                left / module.constant
            )  # PEFT multiplies by it
            above.append(right.detach())
            blocks.append(block)
        products[path] = torch.cat(above), torch.cat(blocks, dim=1)
    return products


def _config(request: Request, ranks: dict[str, int], heads: list[str]) -> dict[str, Any]:
    """What PEFT reads; where ranks differ, those that differ from the first by pattern."""
    config: Any = request.manager.methods[0].config
    scale = config.scale
    common = next(iter(ranks.values()))
    other = {path: rank for path, rank in ranks.items() if rank != common}
    return {
        "peft_type": TYPE,
        "task_type": None,
        "base_model_name_or_path": request.facts.name_of(request.manager),
        "r": common,
        "lora_alpha": scale * common,
        "rank_pattern": other,
        "alpha_pattern": {path: scale * rank for path, rank in other.items()},
        "lora_dropout": config.dropout,
        "target_modules": list(ranks),
        "modules_to_save": heads,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }


def _compare(request: Request, folder: Path) -> float:
    import peft

    manager, task = request.manager, request.task
    base: Any = copied(manager).detach()
    base.reset_classifier(len(as_linear(manager.head(task))[0]))  # type: ignore[index]
    try:
        with quiet():
            loaded = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except Exception as error:  # peft raises what it likes
        text = " ".join(str(error).split())[:200]
        raise request.refusal(f"PEFT does not load what was written ({type(error).__name__}: {text})") from error
    found = []
    for count in (SMALL, LARGE):
        images = inputs(manager, count, seed=count)
        found.append(difference(manager(images, task), loaded(images), request.what))
    return max(found)
