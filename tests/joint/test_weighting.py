"""Loss weighting on toy problems with known answers."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError
from mtpeft.joint.weighting import WEIGHTINGS, build_weighting

BASE = {"a": 1.0, "b": 2.0}


def build(name: str, **options: Any) -> Any:
    """A weighting of two tasks, a with classes, b continuous."""
    return build_weighting({"name": name, **options}, BASE, ["a"])


def test_fixed_is_the_weighted_sum() -> None:
    weighting = build("fixed")
    assert [weighting.factor(t) for t in BASE] == [1.0, 2.0]
    assert not list(weighting.parameters())


def test_uncertainty_finds_its_optimum() -> None:
    """For constant losses l: classes exp(-s) l + s/2 is least at s = log(2 l), continuous exp(-s)/2 l + s/2 at log(l)."""
    weighting = build("uncertainty")
    losses = {"a": 0.7, "b": 3.0}
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        objective = sum(weighting.factor(t) * loss + weighting.penalty(t) for t, loss in losses.items())
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    expected = torch.tensor([math.log(2 * 0.7), math.log(2.0 * 3.0)])
    torch.testing.assert_close(weighting.log_variance.detach(), expected, rtol=1e-4, atol=1e-4)


def test_uncertainty_state() -> None:
    first, second = build("uncertainty"), build("uncertainty")
    with torch.no_grad():
        first.log_variance.copy_(torch.tensor([0.3, -0.2]))
    second.load(first.state())
    assert torch.equal(first.log_variance, second.log_variance)


def test_dwa_by_hand() -> None:
    """Window means 4 -> 2 (ratio 0.5) and 1 -> 1 (ratio 1): lambda = 2 softmax([0.25, 0.5])."""
    weighting = build("dwa", temperature=2.0, window=2)
    for a, b in ((5.0, 1.0), (3.0, 1.0)):
        weighting.observe({"a": a, "b": b})
        assert [weighting.factor(t) for t in BASE] == [1.0, 2.0]
    weighting.observe({"a": 2.0, "b": 1.0})
    saved = weighting.state()
    weighting.observe({"a": 2.0, "b": 1.0})
    total = math.exp(0.25) + math.exp(0.5)
    expected = [2 * math.exp(0.25) / total, 2 * 2 * math.exp(0.5) / total]
    assert [weighting.factor(t) for t in BASE] == pytest.approx(expected)
    resumed = build("dwa", temperature=2.0, window=2)
    resumed.load(saved)
    resumed.observe({"a": 2.0, "b": 1.0})
    assert [resumed.factor(t) for t in BASE] == pytest.approx(expected)


def test_pcgrad_projects_conflicts() -> None:
    """g1 = (1, 0), g2 = (-1, 1): g1 becomes (1/2, 1/2), g2 becomes (0, 1). Gradients that agree are summed."""
    weighting = build("pcgrad")
    conflicting = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(weighting.aggregate(conflicting, 0), torch.tensor([0.5, 1.5]))
    agreeing = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(weighting.aggregate(agreeing, 0), torch.tensor([2.0, 1.0]))


def test_mgda_is_the_shortest_convex_combination() -> None:
    """Of (2, 0) and (0, 1) the point of the segment nearest to 0 is (2, 4)/5."""
    found = build("mgda").aggregate(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 0)
    torch.testing.assert_close(found, torch.tensor([0.4, 0.8]), atol=1e-3, rtol=1e-3)


def test_cagrad_stays_near_the_mean_and_helps_the_worst() -> None:
    """With c = 0 the mean; with c > 0 within c |mean| of it, and the task that gains least gains more."""
    gradients = torch.tensor([[1.0, 0.0], [-0.5, 1.0]])
    mean = gradients.mean(0)
    torch.testing.assert_close(build("cagrad", c=0.0).aggregate(gradients, 0), mean, atol=1e-4, rtol=1e-3)
    found = build("cagrad", c=0.5).aggregate(gradients, 0)
    assert (found - mean).norm() == pytest.approx(0.5 * float(mean.norm()), rel=1e-2)
    assert (gradients @ found).min() > (gradients @ mean).min() + 0.05


def test_seed_fixes_the_order_and_leaves_the_generator() -> None:
    gradients = torch.randn(4, 6)
    state = torch.get_rng_state()
    weighting = build("pcgrad")
    assert torch.equal(weighting.aggregate(gradients, 5), weighting.aggregate(gradients, 5))
    assert torch.equal(state, torch.get_rng_state())


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"recipe key weighting.name.*Did you mean 'pcgrad'"):
        build("pcgard")
    with pytest.raises(ConfigError, match="weighting 'fixed' takes no option 'c'"):
        build("fixed", c=1)
    with pytest.raises(ConfigError, match=r"c is -1\.0, expected a number from 0"):
        build("cagrad", c=-1.0)
    assert set(WEIGHTINGS) >= {"fixed", "uncertainty", "dwa", "pcgrad", "cagrad", "mgda"}
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(MtpeftError, match=r"pip install 'mtpeft\[mtl\]'"):
        build("pcgrad")


def test_shared_and_own_weights_in_a_step() -> None:
    """w is used by both tasks, u by task a only. PCGrad acts on w; u gets its own gradient, unchanged.

    A loss that is of no task adds its gradient to what comes out.
    """
    from mtpeft.joint.model import _CombinedGradients

    w, u = torch.nn.Parameter(torch.tensor([1.0, 1.0])), torch.nn.Parameter(torch.tensor(2.0))
    model = SimpleNamespace(trained=lambda: [("w", w), ("u", u)], weighting=build("pcgrad"), declared=("keys",))
    update = _CombinedGradients(model, None, ["a", "b"])  # type: ignore[arg-type]
    losses = {"a": w[0] * u, "b": 0.5 * (w[1] - 2 * w[0])}
    update.add(losses, [10 * w[1] + 3 * u], penalties=False)
    update.finish(0)
    # a: weight 1, gradient (2, 0); b: weight 2, gradient (-2, 1)
    # a projected: (2,0) + 4/5 (-2,1) = (0.4, 0.8); b projected: (-2,1) + 4/4 (2,0) = (0, 1)
    torch.testing.assert_close(w.grad, torch.tensor([0.4, 1.8 + 10]))
    torch.testing.assert_close(u.grad, torch.tensor(1.0 + 3))
