"""LoRA to Hugging Face PEFT and back, with equal outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_manager import OPTIONS, small
from torch import nn

import mtpeft
from mtpeft.errors import CheckpointError, ConfigError
from mtpeft.manager.attach import create_backbone
from mtpeft.testing import tiny_backbone

FORMS: dict[str, dict[str, Any]] = {
    "q and v of a fused qkv": {},
    "all layers, another scale, dropout": {"sites": ("q", "v", "proj", "fc1", "fc2"), "alpha": 4.0, "dropout": 0.1},
    "qkv as one, a trained scale, one block": {
        "sites": ("qkv",),
        "learnable_scale": True,
        "blocks": (1,),
        "alpha": 3.0,
    },
}


def fresh(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create_backbone("vit_mini_patch4_32", pretrained=False, **OPTIONS, **options)


@torch.no_grad()
def compare(model: Any, manager: Any, task: str) -> None:
    pictures = torch.randn(2, *manager.anatomy.input_size)
    torch.testing.assert_close(model(pictures), manager(pictures, task), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_lora_to_peft_and_back(form: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    manager = small("lora", backbone=fresh(), rank=2, **FORMS[form])
    assert mtpeft.export(manager, "birds", to="peft", path=tmp_path / "out").difference < 1e-4
    base = fresh()
    base.reset_classifier(3)
    compare(peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval(), manager, "birds")
    back = mtpeft.from_peft(tmp_path / "out", fresh(), task="birds").eval()
    assert back.tasks == ["birds"] and back.methods[0].spec.name == "lora"
    with torch.no_grad():
        pictures = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(back(pictures, "birds"), manager(pictures, "birds"), atol=1e-4, rtol=1e-4)
    back.save(tmp_path / "saved")
    compare(back, mtpeft.load(tmp_path / "saved", fresh()).eval(), "birds")


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ["deit_distilled", "mae", "dinov2", "eva02", "swin", "pvt_v2"])
def test_other_anatomies(anatomy: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    manager = small("lora", backbone=tiny_backbone(anatomy), rank=2)
    mtpeft.export(manager, "cars", to="peft", path=tmp_path / "out")
    base: Any = tiny_backbone(anatomy)
    base.reset_classifier(5)
    compare(peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval(), manager, "cars")
    back = mtpeft.from_peft(tmp_path / "out", tiny_backbone(anatomy), task="cars").eval()
    compare(lambda pictures: back(pictures, "cars"), manager, "cars")


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["qkv", "attn.proj"], "r": 3, "lora_alpha": 5},
        {
            "target_modules": r"blocks\.1\..*\.(qkv|fc1)",
            "r": 2,
            "use_rslora": True,
            "rank_pattern": {"fc1": 4},
            "alpha_pattern": {"mlp.fc1": 7},
            "modules_to_save": ["head"],
        },
    ],
)
def test_what_peft_trained_comes_in(options: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = fresh()
    if "modules_to_save" in options:
        base.reset_classifier(4)
    model = peft.get_peft_model(base, peft.LoraConfig(lora_dropout=0.2, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(tmp_path))
    compare(model.eval(), mtpeft.from_peft(tmp_path, fresh()).eval(), "default")


def test_methods_and_models_that_peft_cannot_hold(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    two = small(["lora", "vpt_deep"])
    beit = small("lora", backbone=tiny_backbone("beit"))
    mapped = small()
    mapped.add_task("map", head="dense_linear", channels=2)
    for manager, task, reason in (
        (small("ssf"), "birds", "a PEFT folder holds one adapter of type LORA, and method 'ssf' is none of PEFT's"),
        (two, "birds", "holds one adapter of type LORA, and method 'vpt_deep' is none"),
        (small("mtlora"), "birds", "holds one adapter of type LORA, and method 'mtlora' is none"),
        (beit, "birds", "reads the weights of blocks.0.attn.qkv past the layer"),
        (mapped, "map", "PEFT keeps a linear head only"),
    ):
        with pytest.raises(ConfigError, match=reason):
            mtpeft.export(manager, task, to="peft", path=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """A folder as PEFT writes it: LoRA of rank 2 at one layer."""
    path.mkdir()
    own = {
        f"base_model.model.blocks.0.mlp.fc1.lora_{w}.weight": torch.ones(s)
        for w, s in (("A", (2, 128)), ("B", (512, 2)))
    }
    save_file({**own, **(tensors or {})}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}))
    return path


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    layer = "base_model.model.blocks.0.mlp.fc1"
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "holds 'IA3'; from_peft reads LORA": ({}, {"peft_type": "IA3"}),
        "uses use_dora, which the method 'lora' does not have": ({}, {"use_dora": True}),
        "uses init_lora_weights='pissa_niter_4'": ({}, {"init_lora_weights": "pissa_niter_4"}),
        "holds blocks.0.mlp.fc1.bias, for which": ({f"{layer}.bias": torch.ones(512)}, {}),
        "adapts patch_embed.proj, which is no linear layer of VisionTransformer": (
            {f"base_model.model.patch_embed.proj.lora_{w}.weight": torch.ones(2, 2) for w in "AB"},
            {},
        ),
        "adapts patch_embed.conv, which is a convolution": (
            {f"base_model.model.patch_embed.conv.lora_{w}.weight": torch.ones(2, 2, 1, 1) for w in "AB"},
            {},
        ),
        "are no pair of matrices": ({f"{layer}.lora_A.weight": torch.ones(3, 128)}, {}),
        r"blocks.0.mlp.fc1 has \(512, 64\) weights, that of this backbone \(512, 128\)": (
            {f"{layer}.lora_A.weight": torch.ones(2, 64)},
            {},
        ),
    }
    for number, (reason, (tensors, config)) in enumerate(cases.items()):
        with pytest.raises((ConfigError, CheckpointError), match=reason):
            mtpeft.from_peft(folder(tmp_path / str(number), tensors, **config), fresh())
    with pytest.raises(CheckpointError, match="is no folder of PEFT"):
        mtpeft.from_peft(tmp_path / "none", fresh())
    whole = folder(tmp_path / "whole")
    (whole / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="is damaged"):
        mtpeft.from_peft(whole, fresh())


def test_a_folder_without_a_classifier_leaves_the_backbone_s_own(tmp_path: Path) -> None:
    backbone = fresh()
    backbone.reset_classifier(6)
    manager = mtpeft.from_peft(folder(tmp_path / "out"), backbone, task="own")
    assert manager(torch.randn(1, 3, 32, 32), "own").shape == (1, 6)
    plain = mtpeft.from_peft(folder(tmp_path / "other"), fresh(), task="features")
    assert isinstance(plain.head("features"), nn.Identity)
