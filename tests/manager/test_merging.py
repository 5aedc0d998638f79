"""A merged model is the task: its classifier is the head wherever that is linear, and nothing is lost in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.testing import TINY, tiny_backbone
from mtpeft.testing.case import images, perturb

#: heads that are one linear map in eval mode, made for features of a width
LINEAR: dict[str, Callable[[int], Any]] = {
    "linear": lambda width: "linear",
    "growing": lambda width: "growing",
    "video_linear": lambda width: {"name": "video_linear", "dropout": 0.5},
    "own": lambda width: nn.Linear(width, 3),
    "own without bias": lambda width: nn.Linear(width, 3, bias=False),
    "own with dropout": lambda width: nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 3), nn.Identity()),
}
OTHERS: dict[str, Callable[[int], Any]] = {
    "own with two layers": lambda width: nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, 3)),
    "attention over frames": lambda width: {"name": "video_linear", "pool": "attention"},
}


def attached(anatomy: str, head: Callable[[int], Any]) -> Any:
    torch.manual_seed(0)
    options = {"sites": ("fc1", "fc2")} if anatomy == "convnext" else {}
    manager = mtpeft.attach(tiny_backbone(anatomy), "lora", rank=2, **options)
    made = head(manager.feature_dim)
    manager.add_task("birds", head=made, **({} if isinstance(made, nn.Module) else {"num_classes": 3}))
    perturb(manager)
    return manager.eval()


@pytest.mark.parametrize(
    ("anatomy", "head"), [*((a, "linear") for a in TINY), *(("deit_distilled", h) for h in LINEAR), ("swin", "own")]
)
def test_linear_heads_become_the_classifier(anatomy: str, head: str) -> None:
    manager = attached(anatomy, LINEAR[head])
    plain = manager.merge("birds")
    with torch.no_grad():
        expected = manager(images(2), "birds")
        assert expected.shape == (2, 3)
        torch.testing.assert_close(plain(images(2)), expected, atol=1e-4, rtol=1e-4)


def test_a_growing_head_keeps_the_classes_of_all_tasks() -> None:
    manager = attached("vit", LINEAR["growing"])
    manager.add_task("cars", head="growing", num_classes=2)
    with torch.no_grad():
        torch.testing.assert_close(manager.merge("birds")(images(2)), manager(images(2), "birds"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", OTHERS)
def test_with_other_heads_the_merged_model_gives_features(head: str) -> None:
    manager = attached("vit", OTHERS[head])
    with torch.no_grad():
        torch.testing.assert_close(manager.merge("birds")(images(2)), manager.features(images(2)), atol=1e-4, rtol=1e-4)


def test_a_classifier_that_does_not_run_is_refused_in_one_line() -> None:
    """Timm's Swin with a convolution for classifier does not take its own maps."""
    backbone: Any = tiny_backbone("swin")
    backbone.head = type(backbone.head)(48, 0, pool_type="avg", use_conv=True, input_fmt="NHWC")
    manager = mtpeft.attach(backbone, "lora")
    manager.add_task("birds", num_classes=3)
    with pytest.raises(ConfigError, match="the classifier of SwinTransformer is not one linear layer") as error:
        manager.merge("birds")
    assert "\n" not in str(error.value)


def test_a_classifier_that_is_no_linear_layer_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = attached("vit", LINEAR["linear"])

    def reset(self: Any, count: int, *_: Any) -> None:
        self.head = nn.Sequential(nn.Linear(48, 48), nn.GELU(), nn.Linear(48, max(count, 1)))

    monkeypatch.setattr(type(manager.backbone), "reset_classifier", reset)
    with pytest.raises(ConfigError, match="is not one linear layer on its 48 features; merge cannot") as error:
        manager.merge("birds")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("anatomy", ["vit", "swin", "pvt_v2", "beit"])
def test_the_backbones_own_classifier_is_copied_and_trained(anatomy: str, tmp_path: Path) -> None:
    backbone: Any = tiny_backbone(anatomy)
    backbone.reset_classifier(3)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with torch.no_grad():
        plain = backbone.eval()(images(2))
    manager = mtpeft.attach(backbone, "lora")
    manager.add_task("birds", head=backbone.get_classifier())
    with torch.no_grad():
        torch.testing.assert_close(manager(images(2)), plain, atol=1e-5, rtol=1e-5)
    own = manager.head("birds")
    optimizer = torch.optim.SGD([p for _, p in manager.trainable_parameters()], 0.1)
    manager.train()(images(2)).square().sum().backward()
    optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in own.parameters()) and manager.backbone_unchanged()
    out = manager.eval()(images(2)).detach()
    assert not torch.allclose(out, plain, atol=1e-4)
    torch.testing.assert_close(manager.merge("birds")(images(2)), out, atol=1e-4, rtol=1e-4)
    manager.save(tmp_path / "birds")
    assert manager.detach() is backbone
    assert all(torch.equal(backbone.state_dict()[k], v) for k, v in before.items())
    loaded = mtpeft.load(tmp_path / "birds", backbone, heads={"birds": backbone.get_classifier()})
    assert torch.equal(loaded.eval()(images(2)), out)


def test_two_classifiers_are_no_head() -> None:
    backbone: Any = tiny_backbone("deit_distilled")
    manager = mtpeft.attach(backbone, "lora")
    with pytest.raises(ConfigError, match="a head is a name, a mapping or one module, not tuple"):
        manager.add_task("birds", head=backbone.get_classifier())
