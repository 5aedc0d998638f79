"""Weights of every task side by side: formulas, what is trained, every kind of batch, saving, merging, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mtpeft
from mtpeft.backbones.anatomy import Anatomy
from mtpeft.errors import ConfigError
from mtpeft.hooks.attachment import Attachment
from mtpeft.manager.manager import TaskManager
from mtpeft.methods import METHODS
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case
from mtpeft.testing.checks_attach import check_deepcopy, check_detach, check_identity, check_intermediates
from mtpeft.testing.checks_claims import check_merge, check_save
from mtpeft.testing.checks_training import (
    check_autocast,
    check_checkpointing,
    check_compile,
    check_forward_tasks,
    check_mixed,
)

TASKS = ("birds", "cars", "boats")
METHODS_BESIDE = ("lora", "adaptformer", "houlsby", "vpt_deep", "vpt_shallow", "prefix_tuning")
SD: dict[str, Any] = {"name": "accumulated", "magnitudes": 0.8}


class Accumulating(Case):
    """A case of the harness under this sharing."""

    @property
    def sharings(self) -> tuple[str, ...]:
        return ("accumulated",)

    def attach(self, backbone: nn.Module | None = None, sharing: str | None = None) -> TaskManager:
        return super().attach(backbone, "accumulated")


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def manager(method: str = "lora", sharing: Any = "accumulated", tasks: int = 3, **options: Any) -> TaskManager:
    """In float64, every task's weights moved after it was added."""
    torch.manual_seed(0)
    made = mtpeft.attach(tiny_backbone("vit").double(), method, sharing=sharing, **options)
    for task in TASKS[:tasks]:
        made.add_task(task, num_classes=3, head="growing")
        for name, parameter in made.trainable_parameters():
            if "magnitudes" not in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def by_hand(made: TaskManager, scales: list[float] | None = None) -> torch.Tensor:
    """Features of the plain backbone with every task's product in the rows of q and v, in the order of the tasks."""
    plain: Any = tiny_backbone("vit").double().eval()
    state = made.trained_state()
    for site in made.methods[0].selected:
        assert site.rows is not None
        for place, task in enumerate(TASKS):
            a, b = (state[f"attachments.0.weights.joined.of={task}.sites.{site.key}.lora_{name}"] for name in "AB")
            scale = 1.0 if scales is None else scales[place]
            if scales is not None and place < len(TASKS) - 1:
                scale = scale / (a.square().sum().sqrt() * b.square().sum().sqrt()).item()
            plain.get_submodule(site.path).weight.data[slice(*site.rows)] += scale * (b @ a)
    with torch.no_grad():
        features: torch.Tensor = plain.forward_head(plain.forward_features(images()), pre_logits=True)
    return features


def test_what_acts_is_the_sum_of_all_products() -> None:
    made = manager()
    with torch.no_grad():
        for task in TASKS:
            torch.testing.assert_close(made.features(images(), task), by_hand(made), atol=1e-9, rtol=0)


def test_earlier_products_are_directions_with_trained_magnitudes() -> None:
    """dW = sum of alpha_i B_i A_i / (|B_i| |A_i|) over earlier tasks, and alpha_t B_t A_t."""
    made = manager(sharing=SD)
    scalars = [p for n, p in made.named_parameters() if ".magnitudes." in n]
    assert [p.item() for p in scalars] == pytest.approx([0.8] * 3) and all(p.requires_grad for p in scalars)
    for scalar, value in zip(scalars, (0.5, -1.5, 0.7), strict=True):
        scalar.data.fill_(value)
    with torch.no_grad():
        torch.testing.assert_close(made.features(images(), "cars"), by_hand(made, [0.5, -1.5, 0.7]), atol=1e-9, rtol=0)
    made(images(), "boats").square().sum().backward()
    assert all(p.grad is not None and p.grad.abs() > 0 for p in scalars)
    with torch.no_grad():
        before = made(images(), "boats")
        plain: Any = made.merge("boats").eval()
        torch.testing.assert_close(plain(images()), before, atol=1e-9, rtol=0)
    made.add_task("planes", num_classes=2, head="growing")
    assert [p.item() for n, p in made.named_parameters() if ".magnitudes." in n] == pytest.approx([0.8] * 4)


@pytest.mark.parametrize("sharing", ["accumulated", SD])
def test_only_the_newest_task_is_trained(sharing: Any) -> None:
    made = manager(sharing=sharing)
    trained = {n for n, _ in made.trainable_parameters() if n.startswith("attachments.")}
    assert {n.split("of=")[1].split(".")[0] for n in trained if ".joined." in n} == {"boats"}
    one = sum(p.numel() for n, p in made.named_parameters() if ".joined.of=boats." in n)
    assert made.num_trainable("birds", heads=False) == one + (3 if isinstance(sharing, dict) else 0)
    copied = copy.deepcopy(made)
    assert {n for n, _ in copied.trainable_parameters()} == {n for n, _ in made.trainable_parameters()}
    made.remove_task("boats")
    trained = {n for n, _ in made.trainable_parameters() if ".joined." in n}
    assert {n.split("of=")[1].split(".")[0] for n in trained} == {"cars"}
    with torch.no_grad():
        other = manager(sharing=sharing, tasks=2)
        torch.testing.assert_close(made.features(images(), "cars"), other.features(images(), "cars"), atol=1e-7, rtol=0)
        assert not torch.allclose(copied.features(images(), "cars"), other.features(images(), "cars"))


@pytest.mark.parametrize("method", METHODS_BESIDE)
def test_a_saved_model_is_the_same(method: str, tmp_path: Path) -> None:
    made = manager(method)
    made.save(tmp_path / "saved")
    loaded = mtpeft.load(tmp_path / "saved", tiny_backbone("vit").double()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(), "cars"), made(images(), "cars"))
        mixed = made(images(), ["cars", "birds", "cars", "boats"])
        torch.testing.assert_close(mixed["cars"][1], made(images(), "cars")[[0, 2]], atol=1e-9, rtol=0)
    assert {n for n, _ in loaded.trainable_parameters()} == {n for n, _ in made.trainable_parameters()}
    assert loaded.counts("birds") == made.counts("birds")


@pytest.mark.parametrize("method", METHODS_BESIDE)
def test_it_keeps_what_every_sharing_keeps(method: str) -> None:
    """The checks of the harness."""
    case = Accumulating(method, "vit")
    for check in (check_detach, check_identity, check_intermediates, check_deepcopy, check_mixed, check_forward_tasks):
        check(case)
    for check in (check_checkpointing, check_autocast, check_merge, check_save):
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS_BESIDE)
def test_it_compiles(method: str) -> None:
    check_compile(Accumulating(method, "vit"))


def test_published_counts() -> None:
    """ViT-B/16, rank 10: SD-LoRA 368,640 for each task and a scalar for each task so far."""
    import timm

    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", num_classes=0)
        spec = METHODS.get("lora")
        attached = Attachment(
            spec, spec.build_config({"rank": 10}), Anatomy(backbone), "accumulated", {"magnitudes": 0.8}
        )
        for number in (1, 2, 3):
            attached.weights.add_task(str(number))
            trained = sum(p.numel() for p in attached.weights.parameters() if p.requires_grad)
            assert trained == 368_640 + number


REFUSED: list[tuple[str, dict[str, Any], Any, str]] = [
    ("ssf", {}, "accumulated", "'ssf' does not say how several sets of its weights act as one"),
    ("lora", {"init": "pissa", "rank": 2}, "accumulated", "'lora' has frozen weights beside its own"),
    ("lora", {"learnable_scale": True}, "accumulated", "does not say how several sets"),
    ("adaptformer", {}, SD, "magnitudes are for products of two factors, which method 'adaptformer' is not"),
    ("lora", {}, {"name": "accumulated", "magnitudes": 0.0}, "magnitudes"),
    ("full", {}, "accumulated", "sharing='shared'"),
]


@pytest.mark.parametrize(("method", "options", "sharing", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_a_line(method: str, options: dict[str, Any], sharing: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mtpeft.attach(tiny_backbone("vit"), method, sharing=sharing, **options)
    assert "\n" not in str(caught.value)
