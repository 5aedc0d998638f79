"""The section `training` of a recipe: one set of words for both engines, old ones refused by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from mtpeft.continual.training import Training as Continual
from mtpeft.errors import ConfigError
from mtpeft.joint.training import Training as Joint
from mtpeft.options import Section
from mtpeft.runs.training import RENAMED, Training
from mtpeft.runs.update import NonFiniteLossError, Recent, Update

ENGINES = {"continual": (Continual, {"epochs": 2}), "joint": (Joint, {"steps": 4})}
SGD = {"type": "SGD", "lr": 0.1}
BAD: list[tuple[dict[str, Any], str]] = [
    *(({old: 1}, f"recipe small: training.{old} is now training.{new}") for old, new in RENAMED.items()),
    ({"optimizer": "AdamW"}, "training.optimizer is 'AdamW', expected a mapping"),
    ({"optimizer": {"type": "SGD"}}, r"training.optimizer.lr is missing: dict\(type='SGD', lr=...\)"),
    ({"optimizer": {"type": "Adagrad", "lr": 1}}, "unknown optimizer 'Adagrad'"),
    ({"optimizer": {**SGD, "beta": 1}}, "SGD takes no 'beta'"),
    ({"optimizer": {**SGD, "lr": "fast"}}, "training.optimizer.lr is 'fast', expected a number"),
    ({"optimizer": {**SGD, "weight_decay": -1}}, "training.optimizer.weight_decay is -1"),
    ({"schedule": "cos"}, "training.schedule is 'cos', expected one of .*cosine"),
    ({"amp": "half"}, "training.amp is 'half', expected one of bfloat16, float16"),
    ({"warmup": 1.5}, "training.warmup is 1.5, expected a number"),
    ({"power": "x", "schedule": "poly"}, "training.power is 'x'"),
    ({"power": 2.0, "schedule": "cosine"}, "training.power belongs to the schedule poly"),
    ({"clip": -1}, "training.clip is -1"),
    ({"head_lr": "x"}, "training.head_lr is 'x'"),
    *(({key: 0}, f"training.{key} is 0") for key in ("batch_size", "eval_batch_size", "log_every", "accumulate")),
    *(({key: -1}, f"training.{key} is -1") for key in ("workers", "threads", "eval_every")),
    (
        {"optimizer": {"type": "AdamW", "lr": 1, "betas": (2.0, 0.9)}, "clip": 0},
        "training.clip is 0, expected a number above 0",
    ),
    ({"batch_size": True}, "training.batch_size is True"),
    ({"batch_sise": 1}, "nothing reads the key training.batch_sise. Did you mean 'batch_size'"),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("values", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_mistakes(engine: str, values: dict[str, Any], message: str) -> None:
    cls, length = ENGINES[engine]
    with pytest.raises(ConfigError, match=message) as caught:
        cls.read(Section({**length, **values}, "small", "training."))
    assert "\n" not in str(caught.value)


def test_what_is_missing_and_what_torch_refuses() -> None:
    """A joint run needs its steps; an option torch refuses is one line too."""
    with pytest.raises(ConfigError, match=r"recipe small: key training.steps is missing"):
        Joint.read(Section({}, "small", "training."))
    wrong = Joint(steps=1, optimizer={"type": "AdamW", "lr": 0.1, "betas": (2.0, 0.9)})
    with pytest.raises(ConfigError, match=r"training.optimizer .*Invalid beta parameter") as caught:
        wrong.build_optimizer([("weight", torch.nn.Parameter(torch.zeros(1)))])
    assert "\n" not in str(caught.value)


def test_the_engines_differ_in_length_and_losses_of_classes_alone() -> None:
    """A common key means the same and has the same default in both."""
    common = {field.name for field in fields(Training)}
    assert {f.name for f in fields(Continual)} - common == {"epochs", "loss", "margin"}
    assert {f.name for f in fields(Joint)} - common == {"steps"}
    for name in common:
        assert getattr(Continual(), name) == getattr(Joint(steps=1), name), name


def test_groups_and_rates() -> None:
    """Four groups: heads at their own rate, vectors and positions without decay; all follow the schedule."""
    training = Joint(steps=10, optimizer={**SGD, "weight_decay": 0.5}, head_lr=0.4, schedule="linear", warmup=0.2)
    shapes = {"a.weight": (2, 2), "a.bias": (2,), "positions": (2, 2), "heads.t.weight": (2, 2), "heads.t.bias": (2,)}
    named = [(name, torch.nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]
    optimizer = training.build_optimizer(named)
    found = {name: g for g in optimizer.param_groups for name, p in named if any(p is q for q in g["params"])}
    assert {n: (g["lr"], g["weight_decay"]) for n, g in found.items()} == {
        "a.weight": (0.1, 0.5), "a.bias": (0.1, 0.0), "positions": (0.1, 0.0),
        "heads.t.weight": (0.4, 0.5), "heads.t.bias": (0.4, 0.0),
    }  # fmt: skip
    factors = [training.rate_factor(step, 10) for step in range(10)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    training.set_rate(optimizer, 3, 10)
    assert found["heads.t.bias"]["lr"] == pytest.approx(0.35)
    for schedule, expected in {"constant": 1.0, "cosine": 0.5, "poly": 0.5**0.9}.items():
        assert Joint(steps=8, schedule=schedule).rate_factor(4, 8) == pytest.approx(expected)


@pytest.mark.parametrize("amp", [None, "float16"])
def test_update_clips_what_the_loss_gives(amp: str | None) -> None:
    """The gradient (3, 4) of norm 5, limited to 1; in float16 its scale is gone before anyone looks."""
    weight = torch.nn.Parameter(torch.zeros(2))
    training = Joint(steps=1, optimizer=SGD, clip=1.0, amp=amp)
    update = Update(torch.optim.SGD([weight], lr=1.0), "cpu", training)
    update.step()  # nothing to do is no error
    update.backward((weight * torch.tensor([3.0, 4.0])).sum())
    update.unscale()
    assert weight.grad is not None and weight.grad.tolist() == [3.0, 4.0]
    update.step()
    assert weight.tolist() == pytest.approx([-0.6, -0.8])


def test_a_gradient_that_is_not_finite() -> None:
    """It is told of when the step is read; in float16 the step is left out and the scale halved."""
    for amp in (None, "bfloat16", "float16"):
        weight = torch.nn.Parameter(torch.ones(1))
        update, recent = (
            Update(torch.optim.SGD([weight], lr=1.0), "cpu", Joint(steps=1, optimizer=SGD, amp=amp)),
            Recent(),
        )
        scale = update.scaler.get_scale()
        for step, factor in enumerate((0.0, float("inf"), 0.0), 1):
            update.optimizer.zero_grad()
            update.backward((weight * factor).sum())
            update.step()
            recent.add(step, {"": torch.ones(1)}, update.norm)
        if amp != "float16":
            with pytest.raises(
                NonFiniteLossError, match=r"step 2: the gradient is not finite .* \(seen after step 3\)"
            ):
                recent.read()
            continue
        assert [step for step, _ in recent.read()] == [1, 2, 3] and recent.read() == []
        assert update.scaler.get_scale() == scale / 2 and weight.item() == 1.0
        restored = Update(update.optimizer, "cpu", Joint(steps=1, optimizer=SGD, amp=amp))
        restored.restore(update.state())
        assert restored.scaler.get_scale() == scale / 2


def test_a_loss_that_is_not_finite() -> None:
    """The first step of several that was not is named, with the tasks it concerns; what was read before is left alone."""
    recent = Recent()
    recent.add(1, {"a": torch.tensor(2.5), "b": torch.tensor([0.5], dtype=torch.float64)}, None)
    assert recent.read() == [(1, {"a": 2.5, "b": 0.5})]
    recent.add(2, {"a": torch.tensor(1.0), "b": torch.tensor(float("nan"))}, torch.tensor(float("nan")))
    with pytest.raises(NonFiniteLossError, match=r"^step 2: the loss of task 'b' is nan$"):
        recent.read()
    recent.add(3, {"": torch.tensor(float("-inf"))}, torch.tensor(1.0))
    with pytest.raises(NonFiniteLossError, match=r"^step 3: the loss is -inf$"):
        recent.read()
