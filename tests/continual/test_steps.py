"""Steps of several batches, in half precision, with limited gradients: the words of joint runs, in continual ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train
from tiles import changed_stream, make_dense

from mtpeft.continual.experiment import Experiment

LORA = {"method": {"name": "lora", "rank": 4, "dropout": 0.0}}
STREAM = {**make_recipe()["stream"], "num_tasks": 2, "train_per_class": 6}
CLASS = {**STREAM, "type": "class_incremental"}
DENSE = changed_stream(data={"name": "tiles", "missing": 3}, tasks=["depth", "normals"], transforms={})
CASES: dict[str, dict[str, Any]] = {
    "task": make_recipe(**LORA, stream=STREAM),
    "class, lwf": make_recipe(**LORA, stream=CLASS, plugins=[{"type": "LwFPlugin", "alpha": 1.0, "temperature": 2.0}]),
    "si": make_recipe(**LORA, stream=STREAM, plugins=[{"type": "SynapticIntelligencePlugin", "si_lambda": 1.0}]),
    "lae": make_recipe(**LORA, sharing="averaged", stream=STREAM, plugins=[{"type": "LAE", "momentum": 0.9}]),
    "a-gem": make_recipe(
        **LORA, stream=STREAM, plugins=[{"type": "AGEMPlugin", "patterns_per_experience": 4, "sample_size": 4}]
    ),
    "dense, missing labels": make_dense(**LORA, stream=DENSE),
}


def trained(recipe: dict[str, Any], folder: Path, **training: Any) -> tuple[Experiment, dict[str, torch.Tensor]]:
    values = {"epochs": 2, "optimizer": {"type": "SGD", "lr": 0.05}, "warmup": 0.5, "schedule": "cosine", **training}
    experiment, results = train({**recipe, "training": values}, folder)
    assert results is not None
    return experiment, experiment.manager.trained_state()


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_parts_is_that_of_one_batch(name: str, tmp_path: Path) -> None:
    """Batches of 16 (dense: 6), or two of half of them; the last step of an epoch is smaller."""
    size = 3 if "dense" in name else 8
    one, whole = trained(CASES[name], tmp_path / "one", batch_size=2 * size, clip=1.0)
    many, parts = trained(CASES[name], tmp_path / "many", batch_size=size, accumulate=2, clip=1.0)
    assert one.curve.step == many.curve.step
    losses = [[point["loss"] for point in run.curve.points] for run in (one, many)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    start = Experiment(CASES[name]).manager.trained_state()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert max(float((whole[k].float() - start[k].float()).abs().max()) for k in start) > 1e-3


def test_precision_changes_the_forward_pass_alone(tmp_path: Path) -> None:
    """Half precision gives about the same weights, in float32; bfloat16 differs from float32, float16 has a scale."""
    recipe = make_recipe(**LORA, stream=STREAM)
    _, plain = trained(recipe, tmp_path / "plain")
    for amp in ("bfloat16", "float16"):
        experiment, found = trained(recipe, tmp_path / amp, amp=amp)
        assert all(value.dtype == torch.float32 for value in found.values())
        differences = [float((found[k] - plain[k]).abs().max()) for k in plain]
        assert 0 < max(differences) < 0.05, amp
        assert experiment.strategy.update.scaler.is_enabled() == (amp == "float16")


def test_clipping_limits_a_step(tmp_path: Path) -> None:
    recipe = make_recipe(**LORA, stream=STREAM)
    start = Experiment(recipe).manager.trained_state()
    _, found = trained(recipe, tmp_path / "run", clip=1e-6)
    assert max(float((found[k] - start[k]).abs().max()) for k in start) < 1e-5
