"""Conformance checks of what a method claims, of merging, and of saving."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import Site
from mtpeft.errors import ConfigError
from mtpeft.manager.counting import weights_on
from mtpeft.manager.loading import load
from mtpeft.methods.formula import weights_by_formula
from mtpeft.options import options_of
from mtpeft.testing.backbones import VIT_BASE, vit_base
from mtpeft.testing.case import TASKS, Case, images, training

#: loads every saved manager of a folder in an interpreter of its own: script, folder, then files to import
_LOADER = """
import importlib.util, json, pathlib, sys
import torch, mtpeft
from mtpeft.testing.backbones import tiny_backbone
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
for number, file in enumerate(sys.argv[2:]):
    spec = importlib.util.spec_from_file_location(f"method_file_{number}", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
for saved in sorted(folder.iterdir()):
    inputs = torch.load(saved / "inputs.pt")
    manager = mtpeft.load(saved, tiny_backbone(saved.name.split("@")[1])).eval()
    with torch.no_grad():
        outputs = {task: manager(inputs, task).tolist() for task in manager.tasks}
    (saved / "outputs.json").write_text(json.dumps(outputs))
"""


def check_merge(case: Case) -> None:
    """A method that folds gives a plain model with equal outputs; another one is refused by name."""
    manager = case.manager(double=True).eval()
    # a distilled backbone has two classifiers, so only its features can be merged
    task = "birds" if not isinstance(manager.backbone.get_classifier(), tuple) else "depth"  # type: ignore[operator]
    if not case.spec.folds:
        try:
            manager.merge(task)
        except ConfigError as error:
            case.require(case.name in str(error), f"the refusal to merge {str(error)!r} does not name the method")
            return
        raise case.fail("does not fold, but merge gives a model")
    x = images(dtype=torch.float64)
    with torch.no_grad():
        expected = manager(x, task)
        plain: Any = manager.merge(task)
        if task == "birds":
            case.close(plain(x), expected, "merged model", atol=1e-9, rtol=1e-9)
        else:
            features = manager.anatomy.feature_map(plain.forward_features(x))
            case.close(manager.head(task)(features), expected, "merged features", atol=1e-9, rtol=1e-9)
        case.close(manager(x, task), expected, "outputs after merge", atol=0)
    hooked = [
        path for path, m in plain.named_modules() if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)
    ]
    case.require(not hooked, f"the merged model has hooks at {hooked[:3]}")


def check_save(case: Case) -> None:
    """Saved and loaded on a fresh backbone: the same weights and outputs, bit for bit."""
    manager = case.manager().eval()
    with tempfile.TemporaryDirectory() as folder:
        manager.save(folder)
        loaded = load(folder, case.backbone()).eval()
    case.close(loaded.trained_state(), manager.trained_state(), "loaded weights", atol=0)
    with torch.no_grad():
        found, expected = loaded(case.inputs(), list(TASKS)), manager(case.inputs(), list(TASKS))
        case.close(found, expected, "outputs after load", atol=0)


def check_weights(case: Case) -> None:
    """Where the method states its number of weights by a formula, it is that of a ViT-B/16."""
    formula, config = case.spec.weights, case.spec.build_config({})
    if formula is None:
        return
    try:
        counted = weights_on(case.spec, config, vit_base())
    except ConfigError as error:
        raise case.fail(f"its formula {formula!r} is for a plain ViT, which it does not take") from error
    stated = weights_by_formula(
        formula, VIT_BASE, {name: getattr(config, name) for name in options_of(case.spec.config)}
    )
    case.require(stated == counted, f"its formula {formula!r} gives {stated} on ViT-B/16, which has {counted}")


def check_new_process(cases: Sequence[Case]) -> None:
    """Managers saved here load in another process, with the same outputs bit for bit; one process serves all cases."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        managers = [case.manager().eval() for case in cases]
        for case, manager in zip(cases, managers, strict=True):
            manager.save(folder / f"{case.name}@{case.anatomy}")
            torch.save(case.inputs(), folder / f"{case.name}@{case.anatomy}" / "inputs.pt")
        own = {inspect.getfile(c.spec.module) for c in cases if not c.spec.module.__module__.startswith("mtpeft.")}
        command = [sys.executable, "-c", _LOADER, name, *sorted(own)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        for case, manager in zip(cases, managers, strict=True):
            case.require(
                run.returncode == 0, f"loading in a new process failed: {run.stderr.strip().splitlines()[-1:]}"
            )
            outputs = json.loads((folder / f"{case.name}@{case.anatomy}" / "outputs.json").read_text())
            with torch.no_grad():
                for task in TASKS:
                    case.close(
                        torch.tensor(outputs[task]), manager(case.inputs(), task), f"{task} in a new process", atol=0
                    )


def check_claims(case: Case) -> None:
    """`no_added_modules`, `structure_preserving`, `inference_efficient` and `memory_efficient` are what happens."""
    claims, manager = case.spec.properties, training(case.manager())
    case.require(
        claims.inference_efficient == case.spec.folds,
        f"inference_efficient={claims.inference_efficient}, but folds={case.spec.folds}",
    )
    if claims.no_added_modules:
        for attachment in manager.methods:
            for bank in attachment.weights.banks():
                case.require(bank.model is None, "claims no_added_modules but has weights at model level")
                for site in attachment.selected:
                    _is_backbone_shaped(case, manager.backbone, site, bank.sites[site.key])
    if claims.structure_preserving and not claims.no_added_modules:
        inside = {s.style for a in manager.methods for s in a.selected if s.kind != "pixels"}
        case.require(
            inside <= {"tokens", "prefix", "queries"},
            f"claims structure_preserving but acts at sites of style {sorted(inside)}",
        )
    flows = gradient_flows(
        manager.backbone,
        [manager.backbone.get_submodule(b) for b in manager.anatomy.blocks],
        lambda: manager(case.inputs(2), "birds"),
    )
    case.require(
        flows != claims.memory_efficient, f"memory_efficient={claims.memory_efficient}, but a gradient flows: {flows}"
    )


def _is_backbone_shaped(case: Case, backbone: nn.Module, site: Site, module: nn.Module) -> None:
    own = [backbone.get_parameter(name) for name in (site.weight, site.bias) if name is not None]
    shapes = {tuple(p.shape if site.rows is None else p[slice(*site.rows)].shape) for p in own}
    if site.own_bias() is not None:
        shapes.add(tuple(site.own_bias().shape))  # type: ignore[union-attr]
    # some of a weight's entries count too, where a buffer says which
    shapes |= {tuple(index.shape) for index in module.buffers() if not index.is_floating_point()}
    for name, parameter in module.named_parameters():
        case.require(
            tuple(parameter.shape) in shapes,
            f"claims no_added_modules, but {name} at {site.key} is {tuple(parameter.shape)}",
        )


def gradient_flows(backbone: nn.Module, blocks: Sequence[nn.Module], run: Any) -> bool:
    """Whether the output of any block needs a gradient while `run()` trains."""
    needed: list[bool] = []
    handles = [block.register_forward_hook(lambda m, args, out: needed.append(out.requires_grad)) for block in blocks]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return any(needed)
