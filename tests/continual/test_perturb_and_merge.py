"""LoRA-P&M against its formulas: the share in closed form, the Fisher information, the perturbed gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train
from torch.nn import functional as F

import mtpeft
from mtpeft.continual.closed_form import added, best_share
from mtpeft.continual.experiment import Experiment
from mtpeft.continual.merged_weights import of_manager
from mtpeft.continual.perturb_and_merge import PerturbAndMerge
from mtpeft.errors import ConfigError

CLASS = {**make_recipe()["stream"], "type": "class_incremental", "test_per_class": 4}
LORA = {"name": "lora", "rank": 4, "sites": ["k", "v"]}


def merging(**changes: Any) -> dict[str, Any]:
    plugins = [{"type": "PerturbAndMerge"}]
    return make_recipe(**{"stream": CLASS, "sharing": "accumulated", "plugins": plugins, "method": LORA, **changes})


def plugin_of(experiment: Experiment) -> PerturbAndMerge:
    return next(p for p in experiment.strategy.plugins if isinstance(p, PerturbAndMerge))


def merged_alphas(fishers: list[torch.Tensor], steps: list[torch.Tensor]) -> tuple[list[float], torch.Tensor]:
    """The plugin's arithmetic over made-up tasks."""
    s: dict[str, torch.Tensor] = {}
    r: dict[str, torch.Tensor] = {}
    w, alphas = torch.zeros_like(steps[0]), []
    for f, d in zip(fishers, steps, strict=True):
        s, r = added(s, {"w": f}), added(r, {"w": f * (w + d)})
        alphas.append(best_share(s, r, {"w": w}, {"w": d}))
        w = w + alphas[-1] * d
    return alphas, w


def test_equal_curvature_and_orthogonal_steps_are_averaged() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    alphas, _ = merged_alphas([torch.full((4,), 0.3, dtype=torch.float64)] * 4, list(eye))
    assert alphas == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], abs=1e-12)


def test_the_share_is_where_the_sum_of_quadratics_is_least() -> None:
    """By brute force, over all tasks' optima kept one by one."""
    torch.manual_seed(0)
    fishers, steps = ([torch.randn(7).double() for _ in range(4)] for _ in range(2))
    fishers = [f.square() for f in fishers]
    alphas, _ = merged_alphas(fishers, steps)
    w, optima = torch.zeros(7).double(), []
    for count, (alpha, d) in enumerate(zip(alphas, steps, strict=True), start=1):
        optima.append(w + d)
        grid = torch.linspace(alpha - 1, alpha + 1, 2001).double()
        losses: Any = sum(
            ((w + grid[:, None] * d - best).square() * f).sum(1)
            for f, best in zip(fishers[:count], optima, strict=True)
        )
        assert grid[losses.argmin()].item() == pytest.approx(alpha, abs=1e-3)
        w = w + alpha * d


def test_a_step_that_changes_nothing_is_kept_whole() -> None:
    zero = {"w": torch.zeros(3)}
    assert best_share(zero, zero, zero, {"w": torch.ones(3)}) == 1.0


def one_by_one(experiment: Experiment, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Squared gradients of single images, one backward pass each, summed."""
    data: Any = experiment.stream[0].train.plain()
    images, labels = data.batch(range(6))
    manager, found = experiment.manager.eval(), {name: torch.zeros_like(w) for name, w in weights.items()}
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(manager(image[None], "task0"), label[None])
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            found[name] += gradient.square()
    return found


def test_the_information_is_of_single_images() -> None:
    """Of shared weights by a pass each; of products, in the space of the layers' weights, against a trained plain layer."""
    for sharing in ("shared", "accumulated"):
        experiment = Experiment(merging(sharing=sharing))
        experiment.strategy.train_experience(0)
        space: Any = of_manager(experiment.manager)
        data: Any = experiment.stream[0].train.plain()
        images, labels = data.batch(range(6))

        def loss(output: torch.Tensor, how: str = "sum", labels: torch.Tensor = labels) -> torch.Tensor:
            return F.cross_entropy(output, labels, reduction=how)

        found = space.squares(experiment.manager.eval(), "task0", images, loss)
        if sharing == "shared":
            expected = one_by_one(experiment, space.weights)
        else:
            backbone: Any = experiment.manager.backbone
            layers = {f"blocks.{i}.attn.qkv": block.attn.qkv.weight for i, block in enumerate(backbone.blocks)}
            for weight in layers.values():
                weight.requires_grad_(True)
            whole, expected = one_by_one(experiment, layers), {}
            for site in experiment.manager.methods[0].selected:
                expected[site.key] = whole[site.path][slice(*site.rows)]  # type: ignore[misc]
            for weight in layers.values():
                weight.requires_grad_(False)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert value.abs().max() > 0
            torch.testing.assert_close(value, expected[name], atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("sharing", ["shared", "accumulated"])
def test_a_step_is_made_at_a_perturbed_place(sharing: str) -> None:
    """w + (1 + s) D while the loss is seen, w + D when the step is made, its gradient that of D."""
    experiment = Experiment(merging(sharing=sharing))
    strategy, plugin = experiment.strategy, plugin_of(experiment)
    strategy.train_experience(0)
    plugin.origin = {n: torch.zeros_like(t) if sharing == "accumulated" else t + 0.1 for n, t in plugin.origin.items()}
    moving = plugin._space(strategy).moving()
    values = {n: p.detach().clone() for n, p in moving.items()}
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        s = 0.5 * (0, 1, -1)[int(torch.randint(3, ()))]
        torch.manual_seed(seed)
        plugin.before_training_iteration(strategy)
        for name, parameter in moving.items():
            expected = plugin.origin[name] + (1 + s) * (values[name] - plugin.origin[name])
            torch.testing.assert_close(parameter.detach(), expected if s else values[name])
            parameter.grad = torch.ones_like(parameter)
        plugin.before_update(strategy)
        for name, parameter in moving.items():
            assert torch.equal(parameter.detach(), values[name]) and parameter.grad is not None
            assert torch.equal(parameter.grad, torch.full_like(parameter, 1 + s))
        seen.add(s)
    assert seen == {0, 0.5, -0.5}


@pytest.mark.parametrize("sharing", ["shared", "accumulated"])
def test_a_killed_run_ends_the_same_and_is_loaded(sharing: str, tmp_path: Path) -> None:
    recipe = merging(sharing=sharing)
    experiment, _ = train(recipe, tmp_path / "whole")
    for kill_at in (7, 3):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
    again, results = train(recipe, tmp_path / "killed")
    assert results is not None and plugin_of(again).alphas == plugin_of(experiment).alphas
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    alphas = plugin_of(experiment).alphas
    assert alphas[0] == pytest.approx(1, abs=1e-5) and all(0 <= a < 1 for a in alphas[1:]) and len(alphas) == 5
    manager, loaded = experiment.manager.eval(), mtpeft.load_run(tmp_path / "whole", "cpu").manager.eval()
    data: Any = experiment.stream[0].test
    images, _ = data.batch(range(8))
    with torch.no_grad():
        assert torch.equal(loaded(images, "task4"), manager(images, "task4"))
        plain: Any = manager.merge("task4").eval()
        torch.testing.assert_close(plain(images), manager(images, "task4"), atol=1e-4, rtol=1e-4)


def test_half_of_it_is_an_option() -> None:
    """Without a merge no sums are kept; without a perturbation no number is drawn."""
    experiment = Experiment(merging(plugins=[{"type": "PerturbAndMerge", "merge": False}]))
    experiment.strategy.train_experience(0)
    assert plugin_of(experiment).alphas == () and not plugin_of(experiment).curvature
    experiment = Experiment(merging(plugins=[{"type": "PerturbAndMerge", "epsilon": 0.0}]))
    experiment.strategy.train_experience(0)
    state = torch.get_rng_state()
    plugin_of(experiment).before_training_iteration(experiment.strategy)
    assert torch.equal(torch.get_rng_state(), state) and len(plugin_of(experiment).alphas) == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"plugins": [{"type": "PerturbAndMerge", "epsilon": 0.0, "merge": False}]}, "does nothing"),
    ({"sharing": {"name": "accumulated", "magnitudes": 1.0}}, "without magnitudes"),
    ({"method": "full", "sharing": "shared"}, "not the backbone's own"),
    ({"sharing": "per_task", "stream": make_recipe()["stream"]}, "sharing='shared' or 'accumulated' for method 'lora'"),
    ({"method": {"name": "adaptformer"}}, "scales plain products of sharing 'accumulated'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_said_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(merging(**changes))
    assert "\n" not in str(caught.value)
