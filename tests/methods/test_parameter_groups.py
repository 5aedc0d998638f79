"""Learning rates and weight decay that methods declare for their own weights, in loops of one's own and in both engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.joint.training import Training
from mtpeft.methods import METHODS, MethodConfig, SiteModule, register
from mtpeft.methods.group import PLAIN, Group
from mtpeft.testing import tiny_backbone


@dataclass(frozen=True, kw_only=True)
class PacedConfig(MethodConfig):
    sites: tuple[str, ...] = ("proj",)


class Common(nn.Module):
    """A factor of all sites."""

    def __init__(self, config: Any, sites: Any) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


class Paced(SiteModule):
    """A matrix at the plain rate that never decays, a vector that does, and a fast factor at model level."""

    model_module: ClassVar[type[nn.Module] | None] = Common

    def __init__(self, config: Any, site: Any) -> None:
        super().__init__(config, site)
        self.map = nn.Linear(site.dim_out, site.dim_out)
        nn.init.zeros_(self.map.weight)

    def forward(self, x: torch.Tensor, y: torch.Tensor, model: Any = None) -> torch.Tensor:
        return y + self.map(y) * model.factor

    @staticmethod
    def group(config: Any, name: str) -> Group:
        rules = {"map.weight": Group(decay=False), "map.bias": Group(decay=True), "model.factor": Group(rate=3.0)}
        return rules.get(name, PLAIN)


@pytest.fixture
def paced() -> Iterator[str]:
    register("paced", PacedConfig, paper="none", taxonomy="adapter")(Paced)
    yield "paced"
    METHODS.discard("paced")


def rules(optimizer: torch.optim.Optimizer, manager: Any) -> dict[str, tuple[float, float]]:
    """The last words of a weight's name -> its rate and its decay."""
    names = {p: n for n, p in manager.trainable_parameters()}
    return {
        ".".join(names[p].split(".")[-2:]): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("sharing", ["per_task", "shared"])
def test_a_method_declares_rates_and_decay(paced: str, sharing: str) -> None:
    manager = mtpeft.attach(tiny_backbone("vit"), paced, sharing=sharing)
    for task in ("birds", "cars"):
        manager.add_task(task, num_classes=2)
    expected = {
        "map.weight": (0.1, 0.0),
        "map.bias": (0.1, 0.5),
        "model.factor": (pytest.approx(0.3), 0.0),
        "fc.weight": (0.4, 0.5),
        "fc.bias": (0.4, 0.0),
    }
    own = torch.optim.AdamW(manager.parameter_groups(0.1, "cars", head_lr=0.4), weight_decay=0.5)
    assert rules(own, manager) == expected
    everything = torch.optim.AdamW(manager.parameter_groups(0.1, head_lr=0.4), weight_decay=0.5)
    held = [p for group in everything.param_groups for p in group["params"]]
    assert set(held) == {p for _, p in manager.trainable_parameters()} and len(held) == len(set(held))
    training = Training(steps=4, optimizer={"type": "AdamW", "lr": 0.1, "weight_decay": 0.5}, head_lr=0.4)
    made = training.build_optimizer(manager.trainable_parameters(), manager.weight_groups())
    assert rules(made, manager) == expected
    training = Training(steps=4, optimizer={"type": "SGD", "lr": 0.1}, schedule="linear")
    made = training.build_optimizer(manager.trainable_parameters("cars"), manager.weight_groups("cars"))
    training.set_rate(made, 2, 4)
    assert rules(made, manager)["model.factor"][0] == pytest.approx(0.15)
    assert rules(made, manager)["map.weight"][0] == pytest.approx(0.05)


def test_lora_plus_moves_b_faster_by_the_ratio() -> None:
    """One step of SGD: B moves by `lr_ratio` times what it would, A and the head as ever."""
    moved = {}
    for ratio in (1.0, 16.0):
        torch.manual_seed(0)
        manager = mtpeft.attach(tiny_backbone("vit").double(), "lora", rank=2, lr_ratio=ratio)
        manager.add_task("birds", num_classes=3)
        for name, parameter in manager.trainable_parameters():
            if name.endswith("lora_B"):
                nn.init.normal_(parameter, std=0.1)
        before = {n: p.detach().clone() for n, p in manager.trainable_parameters()}
        optimizer = torch.optim.SGD(manager.parameter_groups(1e-3))
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
        manager(images, "birds").square().mean().backward()
        optimizer.step()
        moved[ratio] = {n: p.detach() - before[n] for n, p in manager.trainable_parameters()}
    for name, change in moved[1.0].items():
        factor = 16.0 if name.endswith("lora_B") else 1.0
        assert change.abs().max() > 0
        torch.testing.assert_close(moved[16.0][name], factor * change, atol=1e-12, rtol=1e-6)


def test_the_streams_of_tasks_and_the_backbones_own_weights_are_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, set[str]] = {}
    for method, anatomy in (("mtlora", "swin"), ("full", "vit")):
        names = asked.setdefault(method, set())

        def note(config: Any, name: str, names: set[str] = names) -> Group:
            names.add(name)
            return Group(rate=2.0)

        monkeypatch.setattr(METHODS.get(method).module, "group", staticmethod(note))
        manager = mtpeft.attach(tiny_backbone(anatomy), method)
        for task in ("birds", "cars"):
            manager.add_task(task, num_classes=2)
        for task in ("cars", None):
            names.clear()
            groups = manager.weight_groups(task)
            trained = {p for n, p in manager.trainable_parameters(task) if not n.startswith("heads.")}
            assert set(groups) == trained and trained
    assert any(name.startswith("stream.") for name in asked["mtlora"])
    assert {name.split(".")[0] for name in asked["full"]} == {"backbone"}


@pytest.mark.parametrize("sharing", ["hyperformer", "polyhistor"])
def test_generated_weights_have_no_rate_of_their_own(sharing: str) -> None:
    backbone = tiny_backbone("vit")
    with pytest.raises(ConfigError, match="'lora' trains 'lora_B' at 4 times the learning rate") as caught:
        mtpeft.attach(backbone, "lora", rank=2, lr_ratio=4, sharing=sharing)
    assert "\n" not in str(caught.value)
    manager = mtpeft.attach(backbone, "lora", rank=2, sharing=sharing)
    manager.add_task("birds", num_classes=2)
    assert manager.weight_groups() == {}
