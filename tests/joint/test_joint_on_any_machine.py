"""Joint runs on the machine: no step waits for the device, one compiled graph, checkpoints and memory formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from squares import TASKS, make_recipe, train

from mtpeft.errors import ConfigError
from mtpeft.joint.experiment import JointExperiment
from mtpeft.manager import compiled
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

LORA = {"method": {"name": "lora", "rank": 4, "dropout": 0.0}}
OWN = {"method": {"name": "adaptformer", "bottleneck_dim": 4}, "sharing": "per_task"}
LARGE = {"method": {"name": "adaptformer", "bottleneck_dim": 96}, "sharing": "per_task"}  # served slice by slice
NO_WAIT: dict[str, dict[str, Any]] = {
    "shared, all labels": {},
    "shared, some labels": {"data": {"missing": 3, "empty": True}},
    "per task, mixed": {**OWN, "data": {"missing": 3}, "sampler": {"name": "uniform"}},
    "per task, mixed, large": {**LARGE, "sampler": {"name": "uniform"}},
    "per task, all labels": OWN,
    "hypernetwork": {"method": {"name": "houlsby", "reduction": 4}, "sharing": "polyhistor_lite"},
    "uncertainty, parts": {"weighting": {"name": "uncertainty"}, "training": {"accumulate": 2, "clip": 1.0}},
    "dwa": {"weighting": {"name": "dwa"}},
}


@pytest.mark.parametrize("name", NO_WAIT)
def test_no_step_waits_for_the_device(name: str) -> None:
    """The model on a device without values, batches as the loader gives them: only the reading of losses fails."""
    experiment = JointExperiment(make_recipe(**NO_WAIT[name]))
    experiment.model.to("meta").train()
    wrapper = experiment._optim_wrapper()
    plans = iter(experiment.sampler)
    for _ in range(3):
        parts = [experiment.data.batch(part) for part in next(plans).parts]
        losses = experiment.model.train_step({"parts": parts, "after": {}}, wrapper)
        assert losses and all(loss.is_meta for loss in losses.values())
    with pytest.raises(NotImplementedError, match="meta"):
        experiment.model.recent.read()


@pytest.mark.parametrize("case", [LORA, {**OWN, "sampler": {"name": "uniform"}}], ids=["shared", "mixed"])
def test_compiled(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One graph of the backbone; of mixed batches one for each number of tasks in them. Losses as without, up to rounding."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    training = {"compile": True, "eval_every": 0}
    _, results = train(make_recipe(**case, training=training), tmp_path / "compiled")
    assert 1 <= len(graphs) <= (len(TASKS) + 1 if "sampler" in case else 1)
    _, plain = train(make_recipe(**case, training={"eval_every": 0}), tmp_path / "plain")
    assert results is not None and plain is not None
    for one, other in zip(results["curves"]["train_loss"], plain["curves"]["train_loss"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.parametrize("key", ["grad_checkpointing", "channels_last"])
def test_speed_and_memory_keys_act_and_change_rounding_alone(key: str, tmp_path: Path) -> None:
    recipe = make_recipe(**LORA, training={key: True, "eval_every": 0, "steps": 4})
    experiment = JointExperiment(recipe)
    blocks, layouts = [], []
    experiment.manager.backbone.blocks[1].register_forward_pre_hook(lambda module, args: blocks.append(1))
    experiment.manager.backbone.patch_embed.register_forward_pre_hook(
        lambda module, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    part = experiment.data.batch(next(iter(experiment.sampler)).parts[0])
    experiment.model.train_step({"parts": [part], "after": {}}, experiment.optim_wrapper)
    assert len(blocks) == (2 if key == "grad_checkpointing" else 1) and all(layouts) == (key == "channels_last")
    _, results = train(recipe, tmp_path / "run")
    _, plain = train(make_recipe(**LORA, training={"eval_every": 0, "steps": 4}), tmp_path / "plain")
    assert results is not None and plain is not None
    for one, other in zip(results["curves"]["train_loss"], plain["curves"]["train_loss"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_refusals_and_what_is_said(tmp_path: Path) -> None:
    """A key without effect is refused; the device is said first and stored, the products' precision given back."""
    with pytest.raises(ConfigError, match="has no effect: no gradient passes"):
        JointExperiment(make_recipe(method="linear_probe", sharing=None, training={"grad_checkpointing": True}))
    recipe = make_recipe(training={"steps": 2, "eval_every": 0, "matmul_precision": "high"})
    told: list[str] = []
    before = torch.get_float32_matmul_precision()
    experiment = JointExperiment(recipe, Progress(message=told.append))
    results = experiment.run(RunFolder(tmp_path / "run", recipe))
    device = experiment.device.type
    assert told[0].startswith(f"device: {device}") and results is not None
    assert results["environment"]["device"].startswith(device)
    assert torch.get_float32_matmul_precision() == before
    assert any("training.matmul_precision 'high' changes nothing here" in line for line in told) == (device == "cpu")
