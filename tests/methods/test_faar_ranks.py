"""FAAR: the ranks that take part in a step, their scores, and what is deleted at an epoch's end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from shrinking import adapter, adapters, made, shrink

import mtpeft
from mtpeft.errors import ConfigError
from mtpeft.manager.pace import paced_modules
from mtpeft.methods.reparameter.faar import FAARConfig, ShrinkingDoRA
from mtpeft.testing import tiny_backbone
from mtpeft.testing.case import Case, images
from mtpeft.testing.conformance import check_compile

# the ranks of a step -----------------------------------------------------------------------------------------------


def test_a_step_uses_the_first_ranks_of_the_order() -> None:
    """Between `before_step` and `after_backward`, in training mode alone."""
    module = adapter()
    module.place.copy_(torch.tensor([2, 0, 3, 1]))
    layer: Any = module.site.module
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    whole = module(x, layer(x))
    for width, used in ((1, [1]), (2, [1, 3]), (3, [0, 1, 3])):
        module.width.fill_(width)
        few = adapter()
        few.load_state_dict(module.state_dict())
        with torch.no_grad():
            few.lora_B[:, [i for i in range(4) if i not in used]] = 0
        torch.testing.assert_close(module(x, layer(x)), few(x, layer(x)), rtol=0, atol=1e-12)
        assert not torch.allclose(module(x, layer(x)), whole)
        torch.testing.assert_close(module.eval()(x, layer(x)), whole, rtol=0, atol=1e-12)
        module.train()(x, layer(x)).sum().backward()
        rows = [i for i in range(4) if module.lora_A.grad[i].any() or module.lora_B.grad[:, i].any()]  # type: ignore[index]
        assert rows == used
        module.after_backward()
        torch.testing.assert_close(module(x, layer(x)), whole, rtol=0, atol=1e-12)
        module.zero_grad()


def test_every_number_of_ranks_is_drawn_alike() -> None:
    """Of 4 of 6 ranks: 1 to 4 about a quarter each, the same after the same seed."""
    module = adapter(rank=6)
    shrink(module, [5.0, 1.0, 0.0, 4.0, 0.0, 3.0])
    assert int(module.rank) == 4

    def draws() -> list[int]:
        torch.manual_seed(0)
        found = []
        for _ in range(400):
            module.before_step()
            found.append(int(module.width))
        return found

    first = draws()
    counts = Counter(first)
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 70
    assert draws() == first


def test_blocks_that_run_twice_use_the_same_ranks() -> None:
    found = []
    for twice in (False, True):
        torch.manual_seed(0)
        manager = made("swin", rank=4, task_rank=4)
        manager.backbone.set_grad_checkpointing(twice)
        manager.before_step()
        outputs = manager.forward_tasks(images(2, torch.float64), ["depth", "normals"])
        torch.stack([out.square().sum() for out in outputs.values()]).sum().backward()
        found.append({name: p.grad.clone() for name, p in manager.trainable_parameters() if p.grad is not None})
        assert {int(module.width) for module in adapters(manager)} != {4}
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-12)


def test_compiles_to_one_graph() -> None:
    check_compile(Case("faar", "vit"))


# scores ------------------------------------------------------------------------------------------------------------


def test_scores_are_a_moving_average_of_products_with_gradients() -> None:
    module = adapter(momentum=0.8)
    expected = torch.zeros(4, dtype=torch.float64)
    for _ in range(3):
        module.lora_A.grad, module.lora_B.grad = torch.randn_like(module.lora_A), torch.randn_like(module.lora_B)
        for i in range(4):
            a = (module.lora_A[i] * module.lora_A.grad[i]).sum()
            b = (module.lora_B[:, i] * module.lora_B.grad[:, i]).sum()
            expected[i] = 0.8 * expected[i] + 0.2 * (abs(a) + abs(b)).detach() / 2
        module.after_backward()
    torch.testing.assert_close(module.score, expected)
    assert int(module.seen) == 3
    module.lora_A.grad[2, 1] = float("inf")  # a step that a gradient scaler leaves out
    module.after_backward()
    torch.testing.assert_close(module.score, expected)
    module.lora_A.grad = module.lora_B.grad = None
    module.after_backward()
    assert int(module.seen) == 3


# the end of an epoch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "scores", "kept"),
    [
        ({}, [1.0, 94.0, 1.5, 3.5], [1, 3]),  # 94 % is too little, 97.5 % is enough
        ({"coverage": 0.94}, [1.0, 94.0, 1.5, 3.5], [1]),
        ({"coverage": 0.98}, [1.0, 94.0, 1.5, 3.5], [1, 3, 2]),
        ({"coverage": 1.0}, [1.0, 0.0, 2.0, 3.0], [3, 2, 0]),
        ({"coverage": 0.1, "min_rank": 2}, [1.0, 2.0, 4.0, 3.0], [2, 3]),
        ({"min_rank": 99}, [1.0, 0.0, 0.0, 0.0], [0, 1, 2, 3]),
        ({}, [1.0, 1.0, 1.0, 1.0], [0, 1, 2, 3]),
        ({}, [0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3]),  # says nothing
    ],
)
def test_known_scores_leave_known_ranks(options: dict[str, Any], scores: list[float], kept: list[int]) -> None:
    module = adapter(**options)
    before = module.lora_A.detach().clone(), module.lora_B.detach().clone()
    shrink(module, scores)
    assert int(module.rank) == len(kept) == int(module.width)
    assert [module.place.tolist().index(i) for i in range(len(kept))] == kept
    assert sorted(module.place.tolist()) == [0, 1, 2, 3]
    gone = [i for i in range(4) if i not in kept]
    torch.testing.assert_close(module.lora_A[kept], before[0][kept], rtol=0, atol=0)
    torch.testing.assert_close(module.lora_B[:, kept], before[1][:, kept], rtol=0, atol=0)
    assert not module.lora_A[gone].any() and not module.lora_B[:, gone].any() and not module.score[gone].any()
    assert module.deleted == len(gone) * (module.lora_A.shape[1] + module.lora_B.shape[0])


def test_what_is_deleted_stays_so() -> None:
    """Whatever scores it would have; the minimum is one rank; an epoch without a gradient changes nothing."""
    module = adapter(coverage=0.5)
    shrink(module, [4.0, 1.0, 3.0, 0.0])
    assert int(module.rank) == 1 + 0 + (4.0 < 0.5 * 8.0) and module.place[0] == 0
    module.after_epoch()  # nothing was seen since
    assert int(module.rank) == 1
    shrink(module, [1.0, 9.0, 9.0, 9.0])
    assert int(module.rank) == 1 and module.place[0] == 0


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimiser_s_memory_brings_no_rank_back(optimizer: Any) -> None:
    """Steps after an epoch's end: the output is that of an adapter without the deleted ranks, at any time."""
    module = adapter(rank=6, dropout=0.0)
    layer: Any = module.site.module
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    steps = optimizer(module.parameters(), lr=0.05, **settings)
    x = torch.randn(16, layer.in_features, dtype=torch.float64)
    wanted = layer(x).detach() + x @ torch.randn(layer.in_features, layer.out_features, dtype=torch.float64)

    def train(count: int) -> None:
        for _ in range(count):
            module.before_step()
            steps.zero_grad()
            (module(x, layer(x)) - wanted).square().mean().backward()
            module.after_backward()
            steps.step()

    train(12)
    shrink(module, [3.0, 0.0, 0.0, 9.0, 0.0, 0.0])
    kept = [0, 3]
    old = module.lora_A.detach().clone()
    train(5)
    assert module.lora_A[1].any()  # what the optimiser remembers has moved a deleted row
    assert not torch.equal(module.lora_A[kept], old[kept])
    module.eval()
    with torch.no_grad():
        low = 4.0 * module.lora_B[:, kept] @ module.lora_A[kept]
        expected = (module.magnitude / (layer.weight + low).norm(dim=1)) * (x @ (layer.weight + low).T) + layer.bias
        torch.testing.assert_close(module(x, layer(x)), expected, rtol=0, atol=1e-10)
    assert not module.score[[1, 2, 4, 5]].any()
    module.after_epoch()
    assert not module.lora_A[[1, 2, 4, 5]].any() and set(module.place[kept].tolist()) <= {0, 1}


def test_tasks_with_other_ranks_share_a_pass(tmp_path: Path) -> None:
    """One batched call of all streams gives what each alone gives; a saved model has the ranks."""
    manager = made("swin", rank=4, task_rank=4)
    for task, scores in (("depth", [9.0, 0.0, 0.0, 1.0]), ("normals", [0.0, 3.0, 2.0, 2.0])):
        for module in manager.attachments[0].weights.own_modules(task)[0].modules():
            if isinstance(module, ShrinkingDoRA):
                shrink(module, scores)
    manager.eval()
    x, tasks = images(2, torch.float64), ["depth", "normals"]
    with torch.no_grad():
        both = manager.forward_tasks(x, tasks)
        mixed = manager(x, tasks)
        for number, task in enumerate(tasks):
            alone = manager(x, task)
            torch.testing.assert_close(both[task], alone, rtol=0, atol=1e-10)
            torch.testing.assert_close(mixed[task][1], alone[number : number + 1], rtol=0, atol=1e-10)
        manager.save(tmp_path / "saved")
        plain = tiny_backbone("swin").double()
        loaded = mtpeft.load(tmp_path / "saved", plain).eval()
        torch.testing.assert_close(loaded(x, "depth"), manager(x, "depth"), rtol=0, atol=0)
    assert loaded.num_trainable() == manager.num_trainable() < made("swin", rank=4, task_rank=4).num_trainable()


def test_a_task_that_was_not_trained_keeps_its_ranks() -> None:
    """In an epoch of one task, the other's adapters stay bit for bit, those that both share shrink."""
    torch.manual_seed(0)
    manager = made("swin", rank=4, task_rank=4, coverage=0.3)
    source = manager.attachments[0].weights
    before = {name: t.clone() for name, t in source.own_modules("normals")[0].state_dict().items()}
    optimizer = torch.optim.AdamW(manager.parameter_groups(1e-3))
    for _ in range(3):
        manager.before_step()
        optimizer.zero_grad()
        manager(images(2, torch.float64), "depth").square().sum().backward()
        manager.after_backward()
        optimizer.step()
    manager.after_epoch()
    after = source.own_modules("normals")[0].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    ranks: dict[bool, set[int]] = {True: set(), False: set()}
    for module in adapters(manager):
        ranks[bool(module.score.any())].add(int(module.rank))  # the last block's shared ones reach no feature
    assert ranks[False] == {4} and ranks[True] and max(ranks[True]) < 4


def test_other_methods_have_nothing_to_do() -> None:
    """No random number is drawn for a method that does not ask."""
    manager = mtpeft.attach(tiny_backbone("vit"), "lora")
    manager.add_task("birds", num_classes=2)
    state = torch.get_rng_state()
    for call in (manager.before_step, manager.after_backward, manager.after_epoch):
        call()
    assert torch.equal(torch.get_rng_state(), state) and not paced_modules(manager)


@pytest.mark.parametrize(
    "options", [{"coverage": 0.0}, {"coverage": 1.5}, {"momentum": 1.0}, {"min_rank": 0}, {"rank": 0}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        FAARConfig(**options)


def test_sites_without_a_way_for_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'faar' cannot be attached .* proj, fc1 and fc2"):
        mtpeft.attach(tiny_backbone("vit"), "faar", sites=("qkv", "proj"))
