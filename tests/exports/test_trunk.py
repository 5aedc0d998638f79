"""One trunk whose weights of each task are inputs gives, for a batch of mixed tasks, what the manager gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_manager import small

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.exports.copies import copied
from mtpeft.exports.trunk import Trunk
from mtpeft.testing import TINY
from mtpeft.testing.case import Case, perturb
from mtpeft.testing.conformance import check_refusal

METHODS = (
    "lora",
    "adaptformer",
    "houlsby",
    "ssf",
    "vpt_shallow",
    "vpt_deep",
    "prefix_tuning",
    "convpass",
    "bitfit",
    "ln_tune",
    "fact_tt",
    "fact_tk",
    "vqt",
    "vp",
    "lst",
    "patt",
    "st_adapter",
    "aim",
)
MIXED = ["birds", "cars", "birds"]


@torch.no_grad()
def compare(manager: Any, inputs: torch.Tensor, tasks: tuple[str, ...] = ("birds", "cars")) -> None:
    trunk = Trunk(copied(manager), tasks)
    found = trunk(inputs, *trunk.stacked(MIXED))
    for position, task in enumerate(MIXED):
        expected = manager(inputs[position : position + 1], task)
        row = found[position : position + 1, : expected.shape[1]]
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "anatomy"),
    [
        *((method, "vit") for method in METHODS),
        *(("lora", anatomy) for anatomy in ("deit_distilled", "eva02", "beit", "swinv2", "pvt_v2")),
        ("vpt_deep", "swin"),
        ("prefix_tuning", "swin"),
        ("bitfit", "beit"),
        ("convpass", "pvt_v2"),
        *(pytest.param(method, anatomy, marks=pytest.mark.slow) for method in METHODS for anatomy in TINY),
    ],
)
def test_mixed_batches_of_any_method(method: str, anatomy: str) -> None:
    case = Case(method, anatomy)
    if not case.claimed():
        check_refusal(case)
        return
    torch.manual_seed(0)
    manager = case.attach(case.backbone())
    case.add_task(manager, "birds", num_classes=3)
    case.add_task(manager, "cars", num_classes=5)
    perturb(manager)
    compare(manager.eval(), case.inputs(3))


@pytest.mark.parametrize("sharing", ["shared", "hyperformer"])
def test_weights_that_are_shared_stay_in_the_trunk_and_generated_ones_are_handed_over(sharing: str) -> None:
    manager = small("adaptformer", sharing, bottleneck_dim=4)
    trunk = Trunk(copied(manager), ("birds", "cars"))
    assert any(name.startswith("method0") for name in trunk.names) == (sharing == "hyperformer")
    compare(manager, torch.randn(3, 3, 32, 32))


def test_heads_of_one_form_are_handed_over_and_others_are_refused() -> None:
    manager = small()
    for task in ("depth", "height"):
        manager.add_task(task, head="dense_linear", channels=2)
    perturb(manager)
    manager.eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        trunk = Trunk(copied(manager), ("depth", "height"))
        found = trunk(pictures, *trunk.stacked(["height", "depth"]))
        expected = torch.cat([manager(pictures[:1], "height"), manager(pictures[1:], "depth")])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="the heads of tasks 'birds' and 'depth' differ in form"):
        Trunk(copied(manager), ("birds", "depth"))


def test_task_streams_are_refused_by_name() -> None:
    manager = mtpeft.attach(Case("vmt_adapter", "vit").backbone(), "vmt_adapter")
    manager.add_task("birds", num_classes=3)
    with pytest.raises(ConfigError, match="sharing 'split' \\(method 'vmt_adapter'\\) has no weights of a task"):
        Trunk(copied(manager), ("birds",))
