"""A pool as a graph: the query is part of it. Merged or handed over task by task it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_manager import small

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.attach import create_backbone

POOLS: list[dict[str, Any]] = [
    {"name": "pool", "size": 4, "top_k": 2},
    {"name": "pool", "choose": "mix", "per_task": 2},
]


def pooled(sharing: dict[str, Any]) -> Any:
    backbone = create_backbone("vit_mini_patch4_32", pretrained=False, depth=1, patch_size=8)
    return small("vpt_shallow", backbone=backbone, sharing=sharing, num_tokens=2)


@pytest.mark.parametrize(
    ("to", "sharing"),
    [
        ("torch", POOLS[0]),
        pytest.param("torch", POOLS[1], marks=pytest.mark.slow),
        *(pytest.param("onnx", sharing, marks=pytest.mark.slow) for sharing in POOLS),
    ],
)
def test_a_graph_asks_by_itself(to: str, sharing: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if to == "onnx" else "torch")
    pytest.importorskip("onnxscript" if to == "onnx" else "torch")
    manager = pooled(sharing)
    written = mtpeft.export(manager, "cars", to=to, path=tmp_path / "out")  # compared with the manager
    assert written.adapters == "kept"
    if to == "torch":
        x = torch.randn(5, 3, 32, 32)
        with torch.no_grad():
            found = torch.export.load(tmp_path / "out" / "model.pt2").module()(x)
            torch.testing.assert_close(found, manager(x, "cars"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"to": "timm"}, {"to": "onnx", "adapters": "separate"}, {"to": "peft"}])
def test_what_holds_one_set_of_weights_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        mtpeft.export(pooled(POOLS[0]), "cars", path=tmp_path / "out", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
