"""InfLoRA against the formulas of the paper and of DualGPM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

import mtpeft
from mtpeft.continual.experiment import Experiment
from mtpeft.continual.inflora import InfLoRAPlugin, second_moments
from mtpeft.continual.subspace import Basis, down_projection, grown
from mtpeft.errors import ConfigError

CLASS = {**make_recipe()["stream"], "type": "class_incremental", "test_per_class": 4}
LORA = {"name": "lora", "rank": 4, "sites": ["k", "v"]}


def inflora(**changes: Any) -> dict[str, Any]:
    plugins = [{"type": "InfLoRA", "lamb": 0.9}]
    return make_recipe(**{"stream": CLASS, "sharing": "accumulated", "plugins": plugins, "method": LORA, **changes})


def moment(spread: list[float], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A second moment with these eigenvalues, largest first, and its eigenvectors (d, d)."""
    torch.manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(spread), len(spread), dtype=torch.float64))[0]
    return q @ torch.tensor(spread, dtype=torch.float64).diag() @ q.T, q


def span(vectors: torch.Tensor) -> torch.Tensor:
    """The projection onto what orthonormal vectors span."""
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(vectors.shape[1], dtype=torch.float64), atol=1e-9, rtol=0)
    return vectors @ vectors.T


def test_the_first_down_matrix_is_the_leading_directions() -> None:
    h, q = moment([5, 3, 1, 0.1, 0.01])
    a = down_projection(h, None, 2)
    torch.testing.assert_close(a.T @ a, span(q[:, :2]) / 3, atol=1e-9, rtol=0)


@pytest.mark.parametrize("taken", [True, False])
def test_later_ones_are_orthogonal_to_what_is_taken(taken: bool) -> None:
    h, _ = moment([5, 3, 2, 1, 0.5, 0.2])
    _, q = moment([1] * 6, seed=1)
    used, free = q[:, :2], q[:, 2:]
    basis = Basis(used, True) if taken else Basis(free, False)
    a = down_projection(h, basis, 3)
    assert (a @ used).abs().max() < 1e-12
    hand = free @ free.T @ h  # by eigenvectors of H' H'^T
    vectors = torch.linalg.eigh(hand @ hand.T)[1].flip(1)[:, :3]
    torch.testing.assert_close(a.T @ a, vectors @ vectors.T / 3, atol=1e-9, rtol=0)
    torch.testing.assert_close(down_projection(h, basis, 6)[4:], torch.zeros(2, 6, dtype=torch.float64))


def test_the_first_task_takes_what_stays_below_the_threshold() -> None:
    """Shares 25/35, 9/35, 1/35, ...: of squared singular values, cumulated 0.714, 0.971, ..."""
    h, q = moment([5, 3, 1, 0.1, 0.01, 0.001])
    for threshold, count in ((0.5, 1), (0.72, 1), (0.98, 2)):
        basis = grown(h, None, threshold)
        assert basis.taken
        torch.testing.assert_close(span(basis.vectors), span(q[:, :count]), atol=1e-9, rtol=0)


def test_taken_directions_grow() -> None:
    """H diagonal in q, the first direction taken: 16 of 30 is there; 9 more reach 0.8, 4 more 0.9."""
    h, q = moment([4, 3, 2, 1, 1e-3, 1e-3, 1e-4, 1e-4])
    for threshold, count in ((0.5, 1), (0.8, 2), (0.9, 3)):
        basis = grown(h, Basis(q[:, :1], True), threshold)
        assert basis.taken
        torch.testing.assert_close(span(basis.vectors), span(q[:, :count]), atol=1e-9, rtol=0)


def test_more_than_half_turns_into_its_complement() -> None:
    h, q = moment([4, 3, 2, 1, 1e-3])
    basis = grown(h, Basis(q[:, :1], True), 0.9)
    assert not basis.taken and basis.free == 2
    torch.testing.assert_close(span(basis.vectors), span(q[:, 3:]), atol=1e-9, rtol=0)


def test_free_directions_shrink() -> None:
    """What is free holds 4 + 1 of 30: above 1 - 0.9 one direction goes, above 1 - 0.99 both of the large ones do."""
    h, q = moment([4, 3, 2, 1, 1e-3])
    for threshold, lost in ((0.8, 0), (0.9, 1), (0.98, 2)):
        basis = grown(h, Basis(q[:, 2:], False), threshold)
        assert not basis.taken and basis.free == 3 - lost
        torch.testing.assert_close(span(basis.vectors), span(q[:, 2 + lost :]), atol=1e-9, rtol=0)


def test_a_run_by_hand() -> None:
    """Second moments, frozen down matrices orthogonal to what is taken, and earlier outputs that do not move."""
    experiment = Experiment(inflora())
    manager, strategy = experiment.manager, experiment.strategy
    plugin = next(p for p in strategy.plugins if isinstance(p, InfLoRAPlugin))
    strategy.train_experience(0)
    data: Any = experiment.stream[0].train.plain()
    images, _ = data.batch(range(32))
    found = second_moments(manager, [images[:20], images[20:]])
    seen: list[torch.Tensor] = []
    layers = [block.attn.qkv for block in manager.backbone.blocks]  # type: ignore[union-attr]
    handle = layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().double()))
    manager.eval()(images, "task0")
    handle.remove()
    x = seen[0].flatten(0, 1)
    torch.testing.assert_close(found["blocks.0.attn.qkv"], x.T @ x / len(x), atol=1e-5, rtol=1e-4)
    basis = plugin.vectors["blocks.0.attn.qkv"]
    assert plugin.taken["blocks.0.attn.qkv"]
    inside = torch.randn(5, basis.shape[1], dtype=torch.float64) @ basis.T
    strategy.train_experience(1)
    source: Any = manager.methods[0].weights
    checked = 0
    for site in source.factory.sites:
        down, up = (source.newest.tensors(site.key)[name] for name in source.factors[site.key])
        assert not down.requires_grad and up.requires_grad and up.abs().max() > 0
        assert down.square().sum(1).tolist() == pytest.approx([1 / 3] * len(down), abs=1e-5)
        if site.block == 0:
            moved = inside @ down.detach().double().T @ up.detach().double().T
            assert moved.abs().max() < 1e-6
            checked += 1
    assert checked == 2


def test_saved_runs_predict_the_same_and_fold(tmp_path: Path) -> None:
    experiment, results = train(inflora(), tmp_path / "run")
    assert results is not None
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    manager = experiment.manager.eval()
    data: Any = experiment.stream[0].test
    images, _ = data.batch(range(8))
    with torch.no_grad():
        expected = manager(images, "task4")
        loaded = predictor.manager.eval()(images, "task4")
        plain: Any = manager.merge("task4").eval()
        torch.testing.assert_close(plain(images), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(loaded, expected)


def test_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    """Killed at a task's last step, inside the next, and off the checkpoint interval; 4 steps a task."""
    train(inflora(), tmp_path / "whole")
    for kill_at in (4, 5, 3):
        assert train(inflora(), tmp_path / "killed", kill_at)[1] is None
    assert train(inflora(), tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"sharing": "shared"},
        "InfLoRA adds a branch for every task: sharing='accumulated' for method 'lora', not 'shared'",
    ),
    ({"method": {"name": "adaptformer"}}, "InfLoRA computes one factor of a product of two"),
    ({"sharing": {"name": "accumulated", "magnitudes": 0.8}}, "without magnitudes"),
    ({"method": ["lora", "lora"]}, "InfLoRA keeps the inputs of one method's layers apart"),
    ({"plugins": [{"type": "InfLoRA"}, {"type": "ReplayPlugin"}]}, "leave out plugin 'ReplayPlugin'"),
    ({"plugins": [{"type": "InfLoRA", "lamb": 1.5}]}, "lamb"),
    ({"stream": make_recipe()["stream"]}, "each task brings weights as it comes"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_said_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(inflora(**changes))
    assert "\n" not in str(caught.value)


def test_published_counts() -> None:
    """ViT-B/16, rank 10, k and v: 184,320 up weights trained for each task, as many down weights computed."""
    import timm

    from mtpeft.backbones.anatomy import Anatomy
    from mtpeft.hooks.attachment import Attachment
    from mtpeft.methods import METHODS

    with torch.device("meta"):
        spec = METHODS.get("lora")
        config = spec.build_config({"rank": 10, "sites": ("k", "v")})
        anatomy = Anatomy(timm.create_model("vit_base_patch16_224", num_classes=0))
        source: Any = Attachment(spec, config, anatomy, "accumulated").weights
        source.add_task("one")
    pairs = [(source.newest.tensors(key), names) for key, names in source.factors.items()]
    assert sum(tensors[up].numel() for tensors, (_, up) in pairs) == 184_320
    assert sum(tensors[down].numel() for tensors, (down, _) in pairs) == 184_320
