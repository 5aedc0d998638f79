"""DiTASK: its maps against steps of the flow, its weights by SVD, its streams, its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.methods.reparameter.cpab import displacement
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import images

POINTS = torch.linspace(0, 1, 23, dtype=torch.float64)


def velocities(cells: int, size: float) -> torch.Tensor:
    drawn = torch.rand(cells - 1, generator=torch.Generator().manual_seed(cells), dtype=torch.float64)
    return size * (2 * drawn - 1)


def flow(x: Any, theta: Any, steps: int = 2000) -> Any:
    """Runge-Kutta on the interpolated velocity."""
    values = np.concatenate([[0.0], np.asarray(theta), [0.0]])
    vertices, h = np.linspace(0, 1, len(values)), 1 / steps
    for _ in range(steps):
        a = np.interp(x, vertices, values)
        b = np.interp(x + h / 2 * a, vertices, values)
        c = np.interp(x + h / 2 * b, vertices, values)
        x = x + h / 6 * (a + 2 * b + 2 * c + np.interp(x + h * c, vertices, values))
    return x


@pytest.mark.parametrize(("cells", "size"), [(2, 1.0), (4, 0.6), (5, 0.5), (32, 0.2), (64, 0.12)])
def test_a_map_is_the_flow_of_its_velocity(cells: int, size: float) -> None:
    for theta in (velocities(cells, size), velocities(cells, size).abs(), -velocities(cells, size).abs()):
        found = POINTS + displacement(POINTS, theta)
        np.testing.assert_allclose(found, flow(POINTS.numpy(), theta.numpy()), atol=1e-6)
        assert (found.diff() > 0).all() and found[0] == 0 and found[-1] == 1
        assert torch.autograd.gradcheck(lambda t: displacement(POINTS[1:-1], t), (theta.requires_grad_(),))


def test_no_velocity_is_exactly_the_identity_and_learns() -> None:
    theta = torch.zeros(31, requires_grad=True)
    moved = displacement(POINTS.float(), theta)
    assert not moved.any()
    moved.sum().backward()
    assert theta.grad is not None and theta.grad.isfinite().all() and theta.grad.any()


def made(anatomy: str, theta: float = 0.3, **options: Any) -> Any:
    manager: Any = mtpeft.attach(tiny_backbone(anatomy).double(), "ditask", final_norm=True, **options)
    for task in ("depth", "normals"):
        manager.add_task(task, head="stage_linear", channels=2)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in manager.trainable_parameters():
        if "theta" in name:
            parameter.data.copy_(theta * torch.randn(parameter.shape, generator=generator))
    return manager.eval()


def moved_weight(weight: torch.Tensor, theta: torch.Tensor, acts_on: str) -> torch.Tensor:
    """U diag(S') V^T in numpy, the map by steps of its flow."""
    u, s, v = np.linalg.svd(weight.detach().numpy(), full_matrices=False)
    if acts_on == "values":
        s = s[0] * flow(s / s[0], theta.detach().numpy(), 4000)
    else:
        places = np.arange(len(s)) / (len(s) - 1)
        s = np.interp(flow(places, theta.detach().numpy(), 4000), places, s)
    return torch.from_numpy(u * s @ v)


@pytest.mark.parametrize("acts_on", ["values", "places"])
@torch.no_grad()
def test_it_equals_a_vit_with_moved_singular_values(acts_on: str) -> None:
    """Shared maps give a plain model with edited weights; a task runs the last block behind attention by its own."""
    manager = made("vit", acts_on=acts_on, cells=8, task_cells=5)
    plain: Any = tiny_backbone("vit").double()
    sites = manager.attachments[0].weights.common.sites
    originals = {}
    for number, block in enumerate(plain.blocks):
        for kind, path, layer in (
            ("qkv", "attn-qkv", block.attn.qkv),
            ("proj", "attn-proj", block.attn.proj),
            ("fc1", "mlp-fc1", block.mlp.fc1),
            ("fc2", "mlp-fc2", block.mlp.fc2),
        ):
            originals[number, kind] = layer.weight.clone()
            theta = sites[f"blocks-{number}-{path}"].theta
            parts = layer.weight.chunk(3) if kind == "qkv" else [layer.weight]
            layer.weight.copy_(torch.cat([moved_weight(p, theta, acts_on) for p in parts]))
    kept: dict[str, Any] = {}
    last = plain.blocks[1]
    last.attn.proj.register_forward_pre_hook(lambda _, a: kept.update(proj=a[0]))
    last.register_forward_pre_hook(lambda _, a: kept.update(entry=a[0]))
    plain.forward_features(images(2, torch.float64))
    for task in ("depth", "normals"):
        maps = manager.attachments[0].weights.tasks[f"task={task}"]["1"].theta

        def layer(kind: str, module: Any, x: torch.Tensor, maps: Any = maps) -> torch.Tensor:
            return F.linear(x, moved_weight(originals[1, kind], maps[kind], acts_on), module.bias)

        x = kept["entry"] + layer("proj", last.attn.proj, kept["proj"])
        x = x + layer("fc2", last.mlp.fc2, F.gelu(layer("fc1", last.mlp.fc1, last.norm2(x))))
        expected = plain.norm(x)[:, 0]
        torch.testing.assert_close(manager.features(images(2, torch.float64), task), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("anatomy", ["vit", "swin"])
@torch.no_grad()
def test_it_starts_at_the_backbone_or_at_random_maps(anatomy: str) -> None:
    plain: Any = tiny_backbone(anatomy).double()
    expected = plain.forward_head(plain.forward_features(images(2, torch.float64)), pre_logits=True)
    for init, same in (("identity", True), ("uniform", False)):
        manager: Any = mtpeft.attach(tiny_backbone(anatomy).double(), "ditask", final_norm=True, init=init)
        manager.add_task("depth", num_classes=2)
        found = manager.eval().features(images(2, torch.float64), "depth")
        assert torch.allclose(found, expected, atol=1e-10) == same
        drawn = [p for n, p in manager.trainable_parameters() if "theta" in n]
        assert all(p.abs().max() <= 31**-0.5 for p in drawn) and same != any(bool(p.any()) for p in drawn)


def test_dropout_is_of_the_whole_input() -> None:
    """With maps at the identity a dropped input still changes what the layer gives: the frozen product loses it too."""
    manager: Any = mtpeft.attach(tiny_backbone("vit"), "ditask", dropout=0.5)
    site = manager.attachments[0].weights.common.sites["blocks-0-mlp-fc1"].train()
    layer, x = manager.backbone.blocks[0].mlp.fc1, torch.randn(2, 5, 48)
    kept: list[Any] = []
    site.dropout.register_forward_hook(lambda _, __, out: kept.append(out))
    torch.testing.assert_close(site(x, layer(x)), layer(kept[0]), atol=1e-5, rtol=1e-5)
    assert not torch.equal(kept[0], x)


#: cells of the shared maps and of a task's, the final norm -> weights of the maps for four tasks on Swin-T, and the backbone's
@pytest.mark.parametrize(
    ("cells", "task_cells", "final_norm", "maps", "own"),
    [(32, 32, False, 2_976, 1_599_546), (64, 4, True, 3_168, 1_601_082)],
)
def test_counts_on_swin_t(cells: int, task_cells: int, final_norm: bool, maps: int, own: int) -> None:
    """In the released config, the last norm counted, 1,604,250; published 1.60 to 1.61 M."""
    swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0)
    manager = mtpeft.attach(swin, "ditask", cells=cells, task_cells=task_cells, final_norm=final_norm)
    for task in "abcd":
        manager.add_task(task, head="stage_linear", channels=1)
    assert manager.num_trainable(heads=False) == maps + own
    assert manager.counts("a").buffers == 0  # U, S and V are made of the backbone's weights, and not saved
    assert round((maps + own) / 1e6, 2) == 1.60


def test_what_it_cannot_serve_is_refused() -> None:
    for anatomy in ("swinv2", "pvt_v2"):
        with pytest.raises(ConfigError, match="task streams need blocks that norm first"):
            mtpeft.attach(tiny_backbone(anatomy), "ditask")
    with pytest.raises(ConfigError, match="its task streams need the sites proj, fc1 and fc2"):
        mtpeft.attach(tiny_backbone("vit"), "ditask", sites=("qkv", "proj"))
    with pytest.raises(ConfigError, match="'norm1' is not a linear layer"):
        mtpeft.attach(tiny_backbone("vit"), "ditask", sites=("norm1", "proj", "fc1", "fc2"))
    with pytest.raises(ConfigError, match="cells is 1, expected"):
        mtpeft.attach(tiny_backbone("vit"), "ditask", cells=1)
