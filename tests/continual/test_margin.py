"""The margin of a cosine head, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aligning import COSINE, LOCAL
from small_recipe import make_recipe
from torch.nn import functional as F

from mtpeft.continual.experiment import Experiment


@pytest.mark.parametrize("loss", ["cross_entropy", "local_cross_entropy"])
def test_a_margin_in_training_alone(loss: str) -> None:
    """Of every step: cross-entropy of the logits less scale times margin at the true class, over all or the new classes."""
    training = {**LOCAL, "loss": loss, "margin": 0.2}
    experiment = Experiment(make_recipe(stream=COSINE, training=training, method={"name": "lora", "rank": 2}))
    strategy = experiment.strategy
    strategy.train_experience(0)
    seen: list[tuple[Any, ...]] = []
    inner = strategy.criterion

    def criterion() -> torch.Tensor:
        scale = experiment.manager.head("task0").scale.value.item()  # type: ignore[union-attr]
        found = inner()
        seen.append((strategy.mb_output.detach().clone(), strategy.mb_y, scale, found.detach()))
        return found

    strategy.criterion = criterion  # type: ignore[method-assign]
    strategy.train_experience(1)
    trained = len(seen)
    for logits, labels, scale, found in seen:
        first = 2 if loss == "local_cross_entropy" else 0
        z = logits.double()
        z[torch.arange(len(z)), labels] -= 0.2 * scale
        expected = F.cross_entropy(z[:, first:], labels - first)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    strategy.measure(1)
    logits, labels, _, found = seen[trained]
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))
    scales = {scale for _, _, scale, _ in seen}
    assert len(scales) > 2  # it learns
