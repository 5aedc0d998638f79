"""L2P, DualPrompt and CODA-Prompt on a class-incremental stream: they learn, end the same after kills, and load as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

import mtpeft
from mtpeft.errors import ConfigError

CLASS = {**make_recipe()["stream"], "type": "class_incremental", "train_per_class": 8, "test_per_class": 4}
DOMAIN = {
    "type": "domain_incremental",
    "data": {"type": "Digits"},
    "domains": [{"type": "none"}, {"type": "rotation", "degrees": 90}],
    "train_per_class": 4,
    "test_per_class": 4,
}
PREFIX = {"name": "prefix_tuning", "num_tokens": 2}
METHODS: dict[str, Any] = {
    "l2p": {
        "method": {
            "name": "vpt_shallow",
            "num_tokens": 2,
            "pool_prompts": "alone",
            "sharing": {"name": "pool", "size": 6, "top_k": 2, "start": "uniform", "frequency": True},
        }
    },
    "dualprompt": {
        "method": [
            {**PREFIX, "blocks": [0], "sharing": "shared"},
            {**PREFIX, "blocks": [1], "sharing": {"name": "pool", "choose": "own", "from_previous": True}},
        ]
    },
    "coda": {
        "method": {
            **PREFIX,
            "sharing": {
                "name": "pool",
                "choose": "mix",
                "per_task": 2,
                "keys": "block",
                "start": "orthogonal",
                "orthogonality": 0.1,
            },
        }
    },
}


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    small = {**make_recipe()["training"], "batch_size": 8, "loss": "local_cross_entropy"}
    training = {**small, **changes.pop("training", {})}
    return make_recipe(**{"stream": CLASS, **METHODS[name], "sharing": None, "training": training, **changes})


@pytest.mark.parametrize("name", METHODS)
def test_killed_run_ends_the_same_and_loads(name: str, tmp_path: Path) -> None:
    made = recipe(name)
    experiment, whole = train(made, tmp_path / "whole")
    assert whole is not None
    for kill_at in (7, 3):
        assert train(made, tmp_path / "killed", kill_at)[1] is None
    assert train(made, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    loaded = mtpeft.load_run(tmp_path / "whole").manager
    assert all(torch.equal(t, loaded.trained_state()[n]) for n, t in experiment.manager.trained_state().items())
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    experiment.manager.eval()
    task = experiment.manager.tasks[-1]
    assert torch.equal(loaded.eval()(x, task), experiment.manager(x, task))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_class_incremental_stream_is_learned(name: str, tmp_path: Path) -> None:
    """Two tasks of five digits on the packaged backbone: learned far better than by chance, and not all forgotten."""
    stream = {**CLASS, "num_tasks": 2, "train_per_class": 40, "test_per_class": 20}
    training = {"epochs": 5, "optimizer": {"type": "Adam", "lr": 0.02}}
    backbone = {"name": "vit_mini_patch4_32"}
    made = recipe(name, stream=stream, training=training, backbone=backbone)
    experiment, results = train(made, tmp_path / "run")
    assert results is not None
    found = np.array(experiment.measured.matrix.to_dict()["values"], dtype=float)
    assert found[0, 0] > 70 and found[1, 1] > 50 and found[1, 0] > 25, found
    points = [point["loss"] for point in results["curves"]["train_loss"]]
    assert points[-1] < points[0]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stream": DOMAIN}, "one task throughout"),
    ({"stream": {**CLASS, "type": "task_incremental"}}, "all tasks are made at once"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_streams_without_trained_tasks_before_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        train(recipe("coda", **changes, training={"loss": "cross_entropy"}), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """The declared losses of a step's batches are the mean over its images."""
    stream = {**CLASS, "num_tasks": 2, "train_per_class": 8}
    found = []
    for batch, accumulate in ((16, 1), (8, 2)):
        training = {"batch_size": batch, "accumulate": accumulate, "epochs": 1, "optimizer": {"type": "SGD", "lr": 0.1}}
        experiment, _ = train(recipe("l2p", stream=stream, training=training), tmp_path / f"run{batch}")
        found.append(experiment.manager.trained_state())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)
