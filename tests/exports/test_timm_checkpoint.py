"""`to="timm"`: what timm itself loads gives the manager's outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from small_manager import small

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.exports.facts import Facts
from mtpeft.manager.attach import create_backbone
from mtpeft.testing import tiny_backbone

#: timm's name, options that make it small
BACKBONES: dict[str, dict[str, Any]] = {
    "vit_mini_patch4_32": {"depth": 2, "patch_size": 8},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 1},
    "swin_mini_patch4_64": {"depths": (1, 1), "num_heads": (1, 2), "img_size": 32},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 1},
}


def exported(path: Path, manager: Any, **more: Any) -> Any:
    written = mtpeft.export(manager, "birds", to="timm", path=path, **more)
    assert written.difference < 1e-4
    return timm.create_model(f"local-dir:{path}", pretrained=True).eval()


@pytest.mark.parametrize(
    ("method", "name"),
    [*(("lora", name) for name in BACKBONES), ("ssf", "vit_mini_patch4_32"), ("ssf", "swin_mini_patch4_64")],
)
def test_timm_loads_a_merged_task(method: str, name: str, tmp_path: Path) -> None:
    backbone = create_backbone(name, pretrained=False, **BACKBONES[name])
    manager = small(method, backbone=backbone)
    loaded = exported(tmp_path / "out", manager, facts=Facts(backbone=name, options=BACKBONES[name]))
    pictures = torch.randn(2, *manager.anatomy.input_size)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures), manager(pictures, "birds"), atol=1e-4, rtol=1e-4)


def test_the_run_s_input_and_classes_are_in_timm_s_configuration(tmp_path: Path) -> None:
    shown = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic", "crop_pct": 0.9}
    facts = Facts(input=shown, classes={"birds": ("finch", "tit", "owl")}, data={"birds": "Garden"}, figures=("94 %",))
    loaded = exported(tmp_path / "out", small(), facts=facts)
    config = timm.data.resolve_model_data_config(loaded)
    assert tuple(config["mean"]) == (0.1, 0.2, 0.3) and tuple(config["std"]) == (0.4, 0.5, 0.6)
    assert (config["interpolation"], config["crop_pct"], config["input_size"]) == ("bicubic", 0.9, (3, 32, 32))
    assert list(loaded.pretrained_cfg["label_names"]) == ["finch", "tit", "owl"]
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert described["tasks"] == {"birds": {"outputs": 3, "classes": ["finch", "tit", "owl"]}}
    assert described["input"]["mean"] == [0.1, 0.2, 0.3]
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| backbone | vit_mini_patch4_32 | apache-2.0 |",
        "| data | Garden | unknown |",
        "- Method: lora (Hu et al., ICLR 2022 (arXiv 2106.09685)), per_task",
        "- Trained weights, head included: birds: 8,579",
        "- 94 %",
        "- Classes of birds, in the order of the outputs: finch, tit, owl",
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
    ):
        assert line in card


def test_what_timm_cannot_hold_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    name = "eva02_tiny_patch14_224"
    biased = small("ssf", backbone=create_backbone(name, pretrained=False, **BACKBONES[name]))
    for manager, reason in (
        (biased, "timm does not load what was written .*Missing key"),  # a bias on k
        (small("vpt_deep"), "method 'vpt_deep' does not fold into the backbone; --to onnx and --to torch take it"),
        (small("lora", backbone=tiny_backbone("vit")), "timm has no name for its backbone"),
    ):
        with pytest.raises(ConfigError, match=reason):
            mtpeft.export(manager, "birds", to="timm", path=tmp_path / "out")
    manager = small()
    manager.add_task("map", head="dense_linear", channels=2)
    with pytest.raises(ConfigError, match="its head is none; use --to onnx"):
        mtpeft.export(manager, "map", to="timm", path=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_manager_and_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    manager = small("ssf").train()
    before = {name: tensor.clone() for name, tensor in manager.state_dict().items()}
    trained = [name for name, _ in manager.trainable_parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mtpeft.export(manager, "birds", to="timm", path=tmp_path / "out")
    assert torch.equal(torch.rand(3), expected)
    assert manager.training and [name for name, _ in manager.trainable_parameters()] == trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in manager.state_dict().items())


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    manager = small()
    for arguments, reason in (
        ({"task": "dogs", "to": "timm"}, "unknown task 'dogs'.*birds, cars"),
        ({"to": "timm"}, "one task is exported at a time; name one of birds, cars"),
        ({"task": "birds", "to": "coreml"}, "unknown target 'coreml'.*onnx, peft, timm, torch"),
        (
            {"task": "birds", "to": "timm", "adapters": "keep"},
            "adapters='keep' has no meaning for 'timm'; it has for onnx",
        ),
        ({"task": "birds", "to": "torch", "adapters": "separate"}, "no meaning for 'torch'; it has for onnx"),
    ):
        with pytest.raises(ConfigError, match=reason):
            mtpeft.export(manager, path=tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []
