"""The growing head of cosines: its formula, its growth, its files, and the margin, against plain algebra in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtpeft
from mtpeft.continual.margin import with_margin
from mtpeft.errors import ConfigError
from mtpeft.exports.copies import folded
from mtpeft.heads import GrowingHead
from mtpeft.testing import tiny_backbone

COSINE: dict[str, Any] = {"head": "growing", "kind": "cosine"}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grown(scale: float | None = None, learn_scale: bool = False) -> GrowingHead:
    torch.manual_seed(1)
    head = GrowingHead(6, kind="cosine", scale=scale, learn_scale=learn_scale)
    head.grow("a", 2)
    head.grow("b", 3)
    return head.double()


def by_hand(features: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * <f, w_c> / (|f| |w_c|), one by one."""
    out = torch.zeros(len(features), len(weight), dtype=torch.float64)
    for i, f in enumerate(features):
        for c, w in enumerate(weight):
            out[i, c] = scale * (f @ w) / ((f @ f).sqrt() * (w @ w).sqrt())
    return out


@pytest.mark.parametrize("scale", [None, 7.5])
def test_logits_are_scaled_cosines_of_all_tasks(scale: float | None) -> None:
    head, features = grown(scale), drawn(4, 6)
    weight = torch.cat([head.part("a").weight, head.part("b").weight])  # type: ignore[list-item]
    expected = by_hand(features, weight, 20.0 if scale is None else scale)
    torch.testing.assert_close(head(features), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(head(3 * features), expected, atol=1e-12, rtol=0)
    assert head.classes("b") == range(2, 5) and head.sizes == [2, 3] and head.linear() is None
    masked = head.masked(head(features), "a")
    assert torch.isinf(masked[:, 2:]).all() and torch.equal(masked[:, :2], head(features)[:, :2])
    torch.testing.assert_close(head.alone()(features), expected, atol=1e-12, rtol=0)


def test_weights_are_drawn_small_and_there_is_no_bias() -> None:
    torch.manual_seed(0)
    head = GrowingHead(400, kind="cosine")
    head.grow("a", 50)
    assert [name for name, _ in head.named_parameters()] == ["parts.task=a.weight"]
    assert head.part("a").weight.std().item() == pytest.approx(0.02, rel=0.02)  # type: ignore[union-attr, operator]


def test_a_learned_scale_is_trained_with_every_task() -> None:
    """d loss / d scale = sum of d loss / d logit times cosine."""
    head, features, target = grown(3.0, learn_scale=True), drawn(5, 6), torch.tensor([0, 1, 2, 3, 4])
    assert head.used("a")[1] is head.used("b")[1] is head.scale
    logits = head(features)
    logits.retain_grad()
    F.cross_entropy(logits, target).backward()
    scale: Any = head.scale
    slope = (logits.detach().softmax(1) - F.one_hot(target, 5)) / 5
    torch.testing.assert_close(scale.value.grad, (slope * logits.detach() / 3.0).sum(), atol=1e-12, rtol=0)


def test_the_margin_is_taken_off_the_cosine_of_the_true_class() -> None:
    head, features, target = grown(10.0), drawn(4, 6), torch.tensor([1, 0, 4, 2])
    found = F.cross_entropy(with_margin(head(features), target, head, 0.3), target)
    weight = torch.cat([head.part("a").weight, head.part("b").weight])  # type: ignore[list-item]
    cosines = by_hand(features, weight.detach(), 1.0)
    losses = []
    for row, label in zip(cosines, target.tolist(), strict=True):
        exponents = [10.0 * (c - 0.3 if k == label else c) for k, c in enumerate(row)]
        losses.append(torch.stack(exponents).exp().sum().log() - exponents[label])
    torch.testing.assert_close(found.detach(), torch.stack(losses).mean(), atol=1e-12, rtol=0)


def manager_of(**options: Any) -> mtpeft.TaskManager:
    manager = mtpeft.attach(tiny_backbone("vit"), "lora", sharing="shared", rank=2)
    for name, count in (("a", 2), ("b", 3)):
        manager.add_task(name, count, **{**COSINE, **options})
    return manager.eval()


@pytest.mark.parametrize("options", [{}, {"scale": 5.0, "learn_scale": True}])
def test_a_saved_head_predicts_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    manager = manager_of(**options)
    learned = "learn_scale" in options
    if learned:
        manager.head("a").scale.value.data.fill_(6.5)  # type: ignore[union-attr]
    images = torch.randn(2, *manager.anatomy.input_size)
    manager.save(tmp_path)
    loaded = mtpeft.load(tmp_path, tiny_backbone("vit"))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images, "b"), manager(images, "b"))
        assert torch.equal(manager(images, ["a", "b"])["a"][1], manager(images[:1], "a"))
    assert manager.counts("b").head == 3 * manager.feature_dim + learned
    names = {name for name, _ in manager.trainable_parameters("a") if name.startswith("heads.")}
    assert names == {"heads.growing.parts.task=a.weight", *(["heads.growing.scale.value"] if learned else [])}
    assert manager.memory("b").head == 4 * manager.counts("b").head


def test_merged_and_exported_it_stays_cosines() -> None:
    """The merged model gives features, as with every head that is no linear map; an export has the head as it is."""
    manager = manager_of()
    images = torch.randn(2, *manager.anatomy.input_size)
    with torch.no_grad():
        expected = manager(images, "b")
        torch.testing.assert_close(manager.merge("b")(images), manager.features(images, "b"), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(folded(manager, "b")(images, "b"), expected, atol=1e-4, rtol=1e-4)


def test_all_tasks_share_its_options() -> None:
    manager = manager_of(scale=5.0)
    for options in ({"scale": 6.0}, {"scale": 5.0, "learn_scale": True}, {"kind": "linear"}):
        with pytest.raises(ConfigError, match="all tasks share one, which was made with") as caught:
            manager.add_task("c", 2, **{**COSINE, **options})
        assert "\n" not in str(caught.value) and manager.tasks == ["a", "b"]
    with pytest.raises(ConfigError, match="scale and learn_scale are for kind='cosine'"):
        mtpeft.attach(tiny_backbone("vit"), "lora").add_task("a", 2, head="growing", scale=5.0)
    with pytest.raises(ConfigError, match="head 'growing': kind is 'cosin'"):
        manager.add_task("c", 2, head="growing", kind="cosin")
    with pytest.raises(ConfigError, match="takes no option 'scales'"):
        manager.add_task("c", 2, **COSINE, scales=1.0)
    with pytest.raises(ConfigError, match="at least one class"):
        GrowingHead(4, kind="cosine").grow("a", 0)
    with pytest.raises(ConfigError, match="take `linear\\(\\)`"):
        GrowingHead(4).alone()
    assert isinstance(manager.head("a"), nn.Module)
