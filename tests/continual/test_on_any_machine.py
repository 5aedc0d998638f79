"""What a recipe asks of the machine: no step waits for the device, one compiled graph, checkpoints, memory formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train
from tiles import changed_stream, make_dense

from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.manager import compiled
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress
from mtpeft.runs.state import State

STREAM = {**make_recipe()["stream"], "num_tasks": 5, "train_per_class": 10}  # 20 images a task
TWO = {**STREAM, "num_tasks": 2}  # 50 images a task
CLASS = {**STREAM, "type": "class_incremental"}
TRAINING = {"epochs": 2, "batch_size": 8, "optimizer": {"type": "AdamW", "lr": 0.003}, "log_every": 100}
LORA = {"method": {"name": "lora", "rank": 4, "dropout": 0.0}}
OWN = {**LORA, "sharing": "per_task"}


class Enough(Exception):
    """Ends a run."""


NO_WAIT: dict[str, dict[str, Any]] = {
    "per task, clipped": make_recipe(**OWN, stream=STREAM, training={**TRAINING, "clip": 1.0}),
    "class, local loss": make_recipe(stream=CLASS, training={**TRAINING, "loss": "local_cross_entropy"}),
    "lae": make_recipe(stream=CLASS, sharing="averaged", training=TRAINING, plugins=[{"type": "LAE", "momentum": 0.9}]),
    "two batches a step": make_recipe(stream=STREAM, training={**TRAINING, "batch_size": 4, "accumulate": 2}),
    "dense": make_dense(
        **LORA,
        stream=changed_stream(data={"name": "tiles", "missing": 3}, tasks=["depth", "normals"], transforms={}),
        training={**TRAINING, "batch_size": 3, "accumulate": 2},
    ),
}


@pytest.mark.parametrize("name", NO_WAIT)
def test_no_step_waits_for_the_device(name: str) -> None:
    """On a device without values, where whoever asks for one gets an error: the reading of the losses alone does."""
    experiment = Experiment(NO_WAIT[name])
    strategy, steps = experiment.strategy, []
    experiment.model.begin(0)
    experiment.model.to("meta")
    strategy.device = torch.device("meta")
    for attachment in experiment.manager.methods:
        if hasattr(attachment.weights, "begun"):  # asked once a task, not once a step
            attachment.weights.begun = torch.tensor(True)

    def step() -> None:
        steps.append(strategy.loss.device.type)
        if len(steps) == 2:
            raise Enough

    strategy.on_step = step
    with pytest.raises(Enough):
        strategy.train_experience(1)  # LAE's second task is the one that moves the average
    assert steps == ["meta"] * 2
    with pytest.raises(NotImplementedError, match="meta"):
        strategy.read_losses()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_never_saved(where: str, tmp_path: Path) -> None:
    """Seen at the next point of the curve or checkpoint, whichever comes first; the run goes on from before it."""
    recipe = make_recipe(stream=STREAM, training={**TRAINING, "batch_size": 4}, checkpoint={"interval": 3})
    experiment = Experiment(recipe)
    head, calls = experiment.manager.head("task0"), []

    def poison(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:
            if where == "loss":
                return output * float("nan")
            output.register_hook(lambda grad: grad * float("inf"))
        return output

    experiment.manager.train()
    head.register_forward_hook(lambda module, args, output: poison(module, args, output) if module.training else None)
    what = "the loss is nan" if where == "loss" else "the gradient is not finite although the loss is"
    with pytest.raises(
        MtpeftError, match=rf"task 'task0', step 7: {what} \(seen after step 9\); lower the learning rate"
    ):
        experiment.run(RunFolder(tmp_path / "run", recipe))
    state = State(tmp_path / "run/checkpoints").read()
    assert state["position"] == {"experience": 0, "epoch": 1, "batch": 1}  # step 6, of 5 an epoch
    assert all(bool(w.isfinite().all()) for weights in state["weights"].values() for w in weights.values())
    assert len(state["curve"]["pending"]) == 6
    assert train(recipe, tmp_path / "run")[1] == train(recipe, tmp_path / "whole")[1]


# one compiled graph --------------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every graph that torch.compile makes; they run as they are."""
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    return made


def compare(first: Any, second: Any) -> None:
    """Two runs whose curves and matrices differ by rounding at most."""
    for one, other in zip(first["curves"]["train_loss"], second["curves"]["train_loss"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for row, other in zip(first["matrix"]["values"], second["matrix"]["values"], strict=True):
        assert row == pytest.approx(other, abs=5.1, nan_ok=True)  # one image of twenty


@pytest.mark.parametrize(
    "case", [{**OWN, "stream": STREAM}, {**LORA, "stream": CLASS}], ids=["per task", "growing head"]
)
def test_one_graph_for_all_tasks_and_batches(case: dict[str, Any], graphs: list[Any], tmp_path: Path) -> None:
    """Five tasks, each with a last batch of half the size; a killed run ends the same."""
    recipe = make_recipe(**case, training={**TRAINING, "compile": True, "log_every": 2})
    _, results = train(recipe, tmp_path / "compiled")
    assert len(graphs) == 1 and results is not None
    assert train(recipe, tmp_path / "killed", kill_at=5)[1] is None
    train(recipe, tmp_path / "killed")
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "compiled/results.json").read_bytes()
    recipe["training"]["compile"] = False
    compare(results, train(recipe, tmp_path / "plain")[1])


def test_a_graph_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line says why, and the run is what it would have been without."""

    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler on this machine\nand more lines")

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    recipe = make_recipe(**LORA, stream=TWO, training={**TRAINING, "epochs": 1, "compile": True})
    told: list[str] = []
    results = Experiment(recipe, Progress(message=told.append)).run(RunFolder(tmp_path / "run", recipe))
    found = [line for line in told if "compile" in line]
    assert len(found) == 1 and found[0].startswith("training.compile: the run goes on without a compiled graph: ")
    assert "no compiler on this machine" in found[0] and "\n" not in found[0]
    recipe["training"]["compile"] = False
    compare(results, train(recipe, tmp_path / "plain")[1])


# checkpoints, memory formats, products -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["grad_checkpointing", "channels_last"])
def test_speed_and_memory_keys_act_and_change_rounding_alone(key: str, tmp_path: Path) -> None:
    """Blocks run again in the backward pass; images reach the backbone in that layout. A folder may go on with or without."""
    recipe = make_recipe(**LORA, stream=TWO, training={**TRAINING, "epochs": 1, key: True})
    experiment = Experiment(recipe)
    blocks, layouts = [], []
    experiment.manager.backbone.blocks[1].register_forward_pre_hook(lambda module, args: blocks.append(module.training))
    experiment.manager.backbone.patch_embed.register_forward_pre_hook(
        lambda module, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    experiment.strategy.train_experience(0)
    assert len(blocks) == 7 * (2 if key == "grad_checkpointing" else 1)
    assert all(layouts) == (key == "channels_last")
    assert train(recipe, tmp_path / "run", kill_at=2)[1] is None
    del recipe["training"][key]
    _, results = train(recipe, tmp_path / "run")
    assert results is not None and [line["key"] for line in results["continued"]] == [f"training.{key}"]
    compare(results, train(recipe, tmp_path / "plain")[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "linear_probe", "training": {**TRAINING, "grad_checkpointing": True}},
            "has no effect: no gradient",
        ),
        ({"method": "lst", "training": {**TRAINING, "grad_checkpointing": True}}, "has no effect: no gradient passes"),
        ({"training": {**TRAINING, "matmul_precision": "low"}}, "training.matmul_precision is 'low', expected one of"),
        ({"training": {**TRAINING, "compile": "yes"}}, "training.compile is 'yes', expected True or False"),
    ],
)
def test_what_would_do_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(make_recipe(**changes))
    assert "\n" not in str(caught.value)


def test_products_are_as_they_were_after_the_run(tmp_path: Path) -> None:
    """In the run they have the precision asked for; where that changes nothing, a line says so."""
    recipe = make_recipe(stream=TWO, training={**TRAINING, "epochs": 1, "matmul_precision": "high"})
    told: list[str] = []
    seen: list[str] = []
    before = torch.get_float32_matmul_precision()
    progress = Progress(step=lambda: seen.append(torch.get_float32_matmul_precision()), message=told.append)
    Experiment(recipe, progress).run(RunFolder(tmp_path / "run", recipe))
    assert set(seen) == {"high"} and torch.get_float32_matmul_precision() == before
    assert any("training.matmul_precision 'high' changes nothing here: cpu" in line for line in told)


def test_the_device_is_said_and_stored(tmp_path: Path) -> None:
    """A recipe without one takes what is there; a folder goes on on another, and its results do not tell the two apart."""
    recipe = make_recipe(stream=TWO, training=TRAINING)
    told: list[str] = []
    results = Experiment(recipe, Progress(message=told.append)).run(RunFolder(tmp_path / "whole", recipe))
    device = Experiment(recipe).device.type
    assert results is not None and results["environment"]["device"].startswith(device)
    assert told[0].startswith(f"device: {device}") and "thread" in told[0]
    start = json.loads((tmp_path / "whole/log.jsonl").read_text().splitlines()[0])
    assert start["event"] == "start" and start["device"] == results["environment"]["device"]
    train(recipe, tmp_path / "moved", kill_at=3)
    train({**recipe, "device": device}, tmp_path / "moved")
    assert (tmp_path / "moved/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_workers_live_as_long_as_the_task(tmp_path: Path) -> None:
    """The same processes read both epochs of a task, and give what this process reads."""
    pids: list[set[int]] = []
    recipe = make_recipe(stream=TWO, training={**TRAINING, "workers": 1})
    experiment = Experiment(recipe)

    def step() -> None:
        assert experiment.strategy._readers is not None
        workers = experiment.strategy._readers._loader._iterator._workers
        pids.append({worker.pid for worker in workers})

    experiment.progress.step = step
    results = experiment.run(RunFolder(tmp_path / "run", recipe))
    assert len(pids) == 28 and all(found == pids[0] for found in pids[:14]) and pids[0] != pids[14]
    assert experiment.strategy._readers is None
    recipe["training"]["workers"] = 0
    assert results is not None and results["curves"] == train(recipe, tmp_path / "here")[1]["curves"]
