"""MTLoRA's options: a rank for each stage, and what a task's update is added to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images, perturb


def test_sites_know_their_stage() -> None:
    found = {s.block: (s.stage, s.stage_end) for s in Anatomy(tiny_backbone("swin")).sites if s.block is not None}
    assert found == {0: (0, False), 1: (0, True), 2: (1, False), 3: (1, True)}
    stages = {s.kind: s.stage for s in Anatomy(tiny_backbone("swin")).sites if s.block is None}
    assert stages["reduction"] == 0 and stages["final_norm"] is None


def test_every_stage_has_its_rank() -> None:
    made = mtpeft.attach(tiny_backbone("swin"), "mtlora_plus", rank=(2, 3), task_rank=[4, 5], train_backbone=False)
    made.add_task("depth", head="stage_linear", channels=1)
    shapes = {n: p.shape[0] for n, p in made.trainable_parameters("depth") if n.endswith("lora_A")}
    shared = {(n.split("-")[1], r) for n, r in shapes.items() if "common" in n and "reduction" not in n}
    assert shared == {("0", 2), ("1", 3)}
    assert [r for n, r in shapes.items() if "reduction" in n] == [2]
    assert [r for n, r in shapes.items() if "tasks" in n] == [4] * 3 + [5] * 3


@pytest.mark.parametrize("option", ["rank", "task_rank"])
def test_another_number_of_ranks_than_stages_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"'mtlora' cannot .*{option} has 3 values, and the backbone 2 stages"):
        mtpeft.attach(tiny_backbone("swin"), "mtlora", **{option: (4, 4, 4)})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["matrix", "matrixv2"])
@torch.no_grad()
def test_what_a_task_s_update_is_added_to(mode: str) -> None:
    """On one ViT block: the frozen product of the shared stream, in `matrixv2` with the shared update."""
    made: Any = mtpeft.attach(
        tiny_backbone("vit").double(), "mtlora", rank=3, task_rank=2, mode=mode, blocks=(0, 1), final_norm=True
    )
    made.add_task("depth", num_classes=2)
    perturb(made, std=0.2)
    made.eval()
    kept: dict[str, Any] = {}
    block = made.backbone.blocks[1]
    names = {"proj": block.attn.proj, "fc1": block.mlp.fc1, "fc2": block.mlp.fc2}
    handles = [m.register_forward_pre_hook(lambda _, a, k=k: kept.update({k: a[0]})) for k, m in names.items()]
    handles.append(block.register_forward_pre_hook(lambda _, a: kept.update(entry=a[0])))
    found = made.features(images(2, torch.float64), "depth")
    for handle in handles:
        handle.remove()
    bank, own = made.attachments[0].weights.common.sites, made.attachments[0].weights.tasks["task=depth"]["1"].updates
    paths = {"proj": "attn-proj", "fc1": "mlp-fc1", "fc2": "mlp-fc2"}

    def layer(kind: str, x: torch.Tensor) -> torch.Tensor:
        module, shared, task = names[kind], bank[f"blocks-1-{paths[kind]}"], own[kind]
        y = F.linear(kept[kind], module.weight, module.bias) + 4.0 * x @ task.lora_A.T @ task.lora_B.T
        return y + 4.0 * kept[kind] @ shared.lora_A.T @ shared.lora_B.T if mode == "matrixv2" else y

    x = kept["entry"] + layer("proj", kept["proj"])
    hidden = F.gelu(layer("fc1", F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, block.norm2.eps)))
    x = x + layer("fc2", hidden)
    expected = F.layer_norm(x, x.shape[-1:], made.backbone.norm.weight, made.backbone.norm.bias, made.backbone.norm.eps)
    torch.testing.assert_close(found, expected[:, 0], atol=1e-9, rtol=1e-9)
