"""Graphs with a dynamic batch: ONNX and torch.export, used as a stranger does, without mtpeft."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_manager import small

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.exports import graph
from mtpeft.manager.attach import create_backbone
from mtpeft.testing import TINY
from mtpeft.testing.case import Case, clips, images, perturb
from mtpeft.testing.conformance import check_refusal

#: refuses what a stranger does not have
BLOCKED = "import sys\nfor name in {blocked}: sys.modules[name] = None\n"


@pytest.fixture(autouse=True)
def _packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def flat(method: Any = "lora", **options: Any) -> Any:
    """As `small`, of one block: tracing costs as many seconds as there are blocks."""
    return small(
        method, backbone=create_backbone("vit_mini_patch4_32", pretrained=False, depth=1, patch_size=8), **options
    )


def stranger(code: str, *blocked: str) -> None:
    """Run code in a process that cannot import `blocked`."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def onnx_outputs(file: Path, pictures: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": pictures.numpy()})[0])


@pytest.mark.parametrize(("method", "how"), [("lora", "merged"), ("vpt_deep", "kept")])
def test_onnx_of_methods_that_fold_and_do_not(method: str, how: str, tmp_path: Path, capfd: Any) -> None:
    manager = flat(method)
    written = mtpeft.export(manager, "cars", to="onnx", path=tmp_path / "out")
    assert (written.adapters, written.file) == (how, "model.onnx")
    assert capfd.readouterr() == ("", "")
    for count in (1, 4):
        pictures = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            expected = manager(pictures, "cars")
        torch.testing.assert_close(
            onnx_outputs(tmp_path / "out" / "model.onnx", pictures), expected, atol=1e-4, rtol=1e-4
        )


def test_a_torch_program_needs_no_mtpeft(tmp_path: Path) -> None:
    manager = flat(["adaptformer", "vpt_shallow"])
    assert mtpeft.export(manager, "birds", to="torch", path=tmp_path / "out").adapters == "kept"
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = manager(pictures, "birds")
    torch.save({"pictures": pictures, "expected": expected}, tmp_path / "case.pt")
    stranger(
        f"import torch\ncase = torch.load({str(tmp_path / 'case.pt')!r})\n"
        f"model = torch.export.load({str(tmp_path / 'out' / 'model.pt2')!r}).module()\n"
        "found = torch.cat([model(case['pictures']), model(case['pictures'][:1])])\n"
        "expected = torch.cat([case['expected'], case['expected'][:1]])\n"
        "torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)\n",
        "mtpeft",
        "timm",
    )


def test_one_trunk_serves_mixed_batches_without_torch(tmp_path: Path) -> None:
    manager = flat("adaptformer", bottleneck_dim=4)
    written = mtpeft.export(manager, to="onnx", adapters="separate", path=tmp_path / "out")
    assert (written.adapters, written.file) == ("separate", "trunk.onnx")
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    assert {task: facts["weights"] for task, facts in described["tasks"].items()} == {
        "birds": "birds.safetensors",
        "cars": "cars.safetensors",
    }
    tasks = ["cars", "birds", "cars", "cars"]
    pictures = torch.randn(len(tasks), 3, 32, 32)
    with torch.no_grad():
        rows = [manager(pictures[i : i + 1], task)[0].numpy() for i, task in enumerate(tasks)]
    np.savez(tmp_path / "case.npz", pictures=pictures.numpy(), **{str(i): row for i, row in enumerate(rows)})
    stranger(
        f"import numpy as np\nsys.path.insert(0, {str(tmp_path / 'out')!r})\nfrom runner import Runner\n"
        f"case, tasks = np.load({str(tmp_path / 'case.npz')!r}), {tasks!r}\n"
        f"found = Runner({str(tmp_path / 'out')!r})(case['pictures'], tasks)\n"
        "for i, row in enumerate(found): np.testing.assert_allclose(row, case[str(i)], atol=1e-4, rtol=1e-4)\n",
        "mtpeft",
        "timm",
        "torch",
        "onnx",
        "onnxscript",
    )
    assert len((tmp_path / "out" / "runner.py").read_text().splitlines()) <= 40


def test_a_graph_that_differs_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(
        ConfigError, match="'vpt_deep' on VisionTransformer\\) to torch cannot be exported: its outputs differ"
    ):
        mtpeft.export(flat("vpt_deep"), "birds", to="torch", path=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime", "peft"])
def test_a_missing_package_names_the_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None if name == package else object())
    to: Any = "peft" if package == "peft" else "onnx"
    for adapters in (None,) if package == "peft" else (None, "separate"):
        with pytest.raises(ConfigError, match=f"{package} is not installed: pip install 'mtpeft\\[export\\]'"):
            mtpeft.export(flat(), "birds", to=to, adapters=adapters, path=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_merging_is_refused_where_a_method_does_not_fold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method 'vpt_deep' does not fold into the backbone; --adapters keep"):
        mtpeft.export(flat("vpt_deep"), "birds", to="onnx", adapters="merge", path=tmp_path / "out")


def graph_of(case: Case, sharing: str | None = None) -> Any:
    torch.manual_seed(0)
    manager = case.attach(case.backbone(), sharing)
    for task, head in {"birds": {"num_classes": 3}, "cars": {"num_classes": 5}}.items():
        manager.add_task(task, **head)
    perturb(manager)
    return manager.eval()


#: group norm, batch norm, resizing and sampling under vmap hold for one number of samples alone, and implicit layers for none
WHOLE_NETWORKS = {"evp", "idpt", "lion", "sam_lst", "side_tuning", "vit_adapter"}
GRID = [(method, anatomy) for method in mtpeft.METHODS for anatomy in TINY]


@pytest.mark.slow
@pytest.mark.parametrize("adapters", ["keep", "separate"])
@pytest.mark.parametrize(("method", "anatomy"), GRID)
def test_every_method_on_every_anatomy(method: str, anatomy: str, adapters: Any, tmp_path: Path) -> None:
    case = Case(method, anatomy)
    if not case.claimed():
        check_refusal(case)
        return
    manager, tasks = graph_of(case), ["birds", "cars"] if adapters == "separate" else "birds"
    frames = case.inputs(1).shape[2] if case.temporal else None
    if adapters == "separate" and method in WHOLE_NETWORKS:
        with pytest.raises(ConfigError, match=r"cannot be exported: torch\.export fails"):
            mtpeft.export(manager, tasks, to="onnx", adapters=adapters, path=tmp_path / "out")
        return
    if adapters == "separate" and case.spec.stream is not None:
        with pytest.raises(ConfigError, match="has no weights of a task that a graph could be handed"):
            mtpeft.export(manager, tasks, to="onnx", adapters=adapters, path=tmp_path / "out", frames=frames)
        return
    assert (
        mtpeft.export(manager, tasks, to="onnx", adapters=adapters, path=tmp_path / "out", frames=frames).difference
        < 1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", ["vit", "swin"])
@pytest.mark.parametrize("head", ["dense_linear", "stage_linear"])
def test_dense_heads_export(anatomy: str, head: str, tmp_path: Path) -> None:
    manager = graph_of(Case("lora", anatomy))
    manager.add_task("map", head=head, channels=2)
    assert mtpeft.export(manager, "map", to="onnx", path=tmp_path / "out").adapters == "merged"
    found = onnx_outputs(tmp_path / "out" / "model.onnx", images(2))
    assert found.shape == (2, 2, 64, 64)


@pytest.mark.slow
def test_clips_export(tmp_path: Path) -> None:
    manager = graph_of(Case("st_adapter", "vit"))
    manager.add_task("moves", head="video_linear", num_classes=4, pool="attention")
    with pytest.raises(ConfigError, match="'st_adapter' takes clips of any length; give frames="):
        mtpeft.export(manager, "moves", to="onnx", path=tmp_path / "out")
    mtpeft.export(manager, "moves", to="onnx", path=tmp_path / "out", frames=3)
    with torch.no_grad():
        expected = manager(clips(2), "moves")
    torch.testing.assert_close(onnx_outputs(tmp_path / "out" / "model.onnx", clips(2)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["averaged", "hyperformer", "shared"])
def test_weights_of_any_source_export(sharing: str, tmp_path: Path) -> None:
    manager = graph_of(Case("adaptformer", "vit"), sharing)
    if sharing == "averaged":
        manager.methods[0].weights.begin()
        perturb(manager)
    assert mtpeft.export(manager, "birds", to="onnx", path=tmp_path / "out").adapters == "kept"
