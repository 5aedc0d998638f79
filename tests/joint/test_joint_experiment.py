"""Whole joint runs: what they learn, write, refuse, and say."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from squares import TASKS, make_recipe, train

import mtpeft
from mtpeft.errors import ConfigError, MtpeftError, UnknownNameError
from mtpeft.evaluation import read
from mtpeft.joint.experiment import JointExperiment
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.state import State

SINGLE = {"semseg": 40.0, "depth": 1.0, "normals": 20.0}


def test_learns_and_leaves_the_backbone(tmp_path: Path) -> None:
    recipe = make_recipe(
        training={"steps": 60, "optimizer": {"type": "AdamW", "lr": 0.01}, "eval_every": 30}, single_task=SINGLE
    )
    _, results = train(recipe, tmp_path / "run")
    assert results is not None and results == read(tmp_path / "run/results.json")
    for task in TASKS:
        losses = [p["loss"] for p in results["curves"]["train_loss"] if p["task"] == task]
        assert len(losses) == 30 and np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3]), task
    assert results["frozen"]["unchanged"] and results["delta"] > -40
    assert [e["step"] for e in results["history"]] == [30, 60]
    assert results["history"][-1]["values"] == results["final"] and results["history"][-1]["delta"] == results["delta"]
    state = State(tmp_path / "run/checkpoints").read()
    assert state["step"] == 60 and not [f for f in state if "time" in f]
    events = [json.loads(line)["event"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert events[0] == "start" and events.count("evaluate") == 2 and events[-1] == "done"


def test_best_checkpoint_is_that_of_the_best_delta(tmp_path: Path) -> None:
    """On validation data; the test part has no say."""
    changes = {"training": {"optimizer": {"type": "AdamW", "lr": 0.05}, "eval_every": 1}, "single_task": SINGLE}
    recipe = make_recipe(**changes, validation={"share": 0.3, "seed": 1})
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None
    deltas = {e["step"]: e["validation_delta"] for e in results["history"]}
    best = max(deltas, key=lambda step: deltas[step])
    assert results["best"] == {"step": best, "delta": deltas[best]}
    sizes = {(t["train_samples"], t["validation_samples"], t["val_samples"]) for t in results["tasks"]}
    assert sizes == {(8, 4, 12)}
    kept, held = experiment.data.train[0].dataset.indices, experiment.data.held[0].dataset.indices
    assert sorted(kept + held) == list(range(12)) and experiment.data.held[0].dataset.dataset.split == "train"
    assert all(deltas[e["step"]] != e["delta"] for e in results["history"])
    values = [results["main"][t] for t in TASKS]
    expected = np.mean([100 * s * (v - q) / q for v, q, s in zip(values, SINGLE.values(), (1, -1, -1), strict=True)])
    assert results["delta"] == pytest.approx(expected)
    backbone = mtpeft.create_backbone("vit_mini_patch4_32", False, depth=2, patch_size=8)
    backbone.load_state_dict(experiment.manager.backbone.state_dict(), strict=False)
    loaded = mtpeft.load(tmp_path / "run/model", _fresh_backbone(recipe))
    images = torch.randn(2, 3, 32, 32)
    for task in TASKS:
        assert torch.equal(loaded.eval()(images, task), experiment.manager.eval()(images, task))
    assert mtpeft.load(tmp_path / "run/best", _fresh_backbone(recipe)).tasks == list(TASKS)


def _fresh_backbone(recipe: dict[str, Any]) -> torch.nn.Module:
    return JointExperiment(recipe).manager.detach()


def test_reference_run(tmp_path: Path) -> None:
    """`single_task` may be the folder of a run; without it there is no delta. Without validation data nothing is chosen."""
    _, first = train(make_recipe(), tmp_path / "reference")
    assert first is not None
    assert first["delta"] is None and first["best"] is None and not (tmp_path / "reference/best").exists()
    _, second = train(make_recipe(name="again", single_task=str(tmp_path / "reference")), tmp_path / "again")
    assert second is not None and second["single_task"] == first["main"] and second["delta"] == pytest.approx(0.0)
    assert second["best"] is None and not (tmp_path / "again/best").exists()


def test_pictures(tmp_path: Path) -> None:
    """The worst sample has the higher loss; files are what the index says."""
    experiment, results = train(make_recipe(pictures=2), tmp_path / "run")
    assert results is not None and results["pictures"] == "pictures"
    folder = tmp_path / "run/pictures"
    index = json.loads((folder / "index.json").read_text())["tasks"]
    assert set(index) == set(TASKS)
    for task, cases in index.items():
        assert [len(cases[kind]) for kind in ("best", "worst")] == [2, 2]
        assert cases["best"][0]["sample"] != cases["worst"][0]["sample"]
        for case in cases["best"] + cases["worst"]:
            number = int(case["sample"].removeprefix("val"))
            for part in ("image", "truth", "prediction"):
                with Image.open(folder / case[part]) as picture:
                    assert picture.size == (32, 32) and picture.mode == "RGB", task
            sample = experiment.data.val[0].dataset[number]
            with Image.open(folder / case["image"]) as picture:
                np.testing.assert_allclose(np.asarray(picture).astype(int), sample.image.astype(int), atol=1)
    batch = next(experiment.data.batches("val", 0, range(12), 12))
    rows, labels = batch["labels"]["depth"]
    outputs = experiment.model.eval().outputs(batch["images"], {"depth": rows})["depth"][1]
    losses = {f"val{i}": float((outputs[i] - labels[i]).detach().abs().mean()) for i in range(12)}
    assert index["depth"]["best"][0]["sample"] == min(losses, key=lambda n: losses[n])
    assert index["depth"]["worst"][0]["sample"] == max(losses, key=lambda n: losses[n])


def test_gradient_conflict(tmp_path: Path) -> None:
    """Cosines on shared weights; null where no weights are shared."""
    experiment, results = train(make_recipe(gradient_conflict=1), tmp_path / "shared")
    assert results is not None
    cosine = np.array(results["gradient_conflict"]["cosine"])
    assert results["gradient_conflict"]["tasks"] == list(TASKS)
    np.testing.assert_allclose(cosine, cosine.T)
    np.testing.assert_allclose(np.diag(cosine), 1.0)
    batch = next(experiment.data.batches("train", 0, range(4), 4))
    losses = experiment.model.eval().losses(batch["images"], batch["labels"])
    shared = [p for n, p in experiment.manager.trainable_parameters() if not n.startswith("heads.")]
    grads = {t: torch.autograd.grad(losses[t], shared, retain_graph=True) for t in ("semseg", "depth")}
    flat = {t: torch.cat([g.flatten() for g in gs]) for t, gs in grads.items()}
    expected = torch.nn.functional.cosine_similarity(flat["semseg"], flat["depth"], dim=0)
    assert cosine[0, 1] == pytest.approx(float(expected), abs=1e-4)
    own = make_recipe(method={"name": "adaptformer", "bottleneck_dim": 4}, sharing="per_task")
    assert train(own, tmp_path / "own")[1]["gradient_conflict"] is None  # type: ignore[index]


def test_flops(tmp_path: Path) -> None:
    """Shared weights: one backbone pass for all tasks. Own weights: one per task. A 1x1 head by hand."""
    _, shared = train(make_recipe(), tmp_path / "shared")
    own = make_recipe(method={"name": "adaptformer", "bottleneck_dim": 4}, sharing="per_task")
    _, apart = train(own, tmp_path / "own")
    assert shared is not None and apart is not None
    flops = shared["flops"]
    assert flops["heads"] == {"semseg": 2 * 128 * 3 * 16, "depth": 2 * 128 * 16, "normals": 2 * 128 * 3 * 16}
    assert flops["total"] == flops["backbone"] + sum(flops["heads"].values())
    assert all(flops["per_task"][t] == flops["backbone"] + flops["heads"][t] for t in TASKS)
    single = apart["flops"]["per_task"]["depth"] - apart["flops"]["heads"]["depth"]
    assert apart["flops"]["backbone"] == 3 * single
    # two blocks of width 128 on 17 tokens: qkv, two attention products, projection, MLP of factor 4; patch embedding
    block = 2 * 17 * 128 * 128 * (3 + 1 + 8) + 2 * 2 * 17 * 17 * 128
    lora = 2 * 2 * 17 * 128 * 4 * 2
    assert flops["backbone"] == pytest.approx(2 * (block + lora) + 2 * 16 * 128 * 3 * 64, rel=0.01)


def test_non_finite_loss_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """The error names step and task, and the state before is untouched and can be resumed."""
    recipe = make_recipe(training={"eval_every": 0})
    experiment = JointExperiment(recipe)
    head = experiment.manager.head("depth")
    calls = []

    def poison(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * float("nan") if len(calls) > 5 else output

    head.register_forward_hook(poison)
    message = r"step 6: the loss of task 'depth' is nan; the checkpoint of step 4 is kept: lower training.optimizer.lr"
    with pytest.raises(MtpeftError, match=message):
        experiment.run(RunFolder(tmp_path / "run", recipe))
    state = State(tmp_path / "run/checkpoints").read()
    assert state["step"] == 4 and all(bool(torch.isfinite(w).all()) for w in state["weights"].values())
    assert not (tmp_path / "run/results.json").exists()
    assert train(recipe, tmp_path / "run")[1] == train(recipe, tmp_path / "whole")[1]


def test_skipped_labels_are_counted(tmp_path: Path) -> None:
    """Twelve samples, one without a valid depth: three epochs see it three times."""
    recipe = make_recipe(data={"empty": True}, training={"steps": 9})
    _, results = train(recipe, tmp_path / "run")
    assert results is not None and results["skipped"] == {"semseg": 0, "depth": 3, "normals": 0}


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_recipe(visualizer=[{"type": "TensorboardVisBackend"}]), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run/logs/tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    assert {"rate", "loss/depth", "depth/rmse", "semseg/mIoU"} <= set(names)
    assert [e.step for e in events.Scalars("loss/depth")] == [2, 4, 6, 8]


def test_order_of_events(tmp_path: Path) -> None:
    """MMEngine's hooks around two steps, ours among them: rate, curve, evaluation, state."""
    from mmengine.hooks import Hook

    from mtpeft.joint.loop import StepLoop, build_runner

    recipe = make_recipe(training={"steps": 2, "eval_every": 1})
    experiment = JointExperiment(recipe)
    seen: list[str] = []

    class Recorder(Hook):
        priority = "LOWEST"

    names = ("before_run", "before_train", "before_train_epoch", "before_train_iter", "after_train_iter")
    for name in (*names, "after_train_epoch", "after_train", "after_run"):
        setattr(Recorder, name, lambda self, runner, *a, name=name, **k: seen.append(name))
    from mtpeft.joint.data import build_loader

    runner = build_runner(
        experiment.model,
        build_loader(experiment.data, experiment.sampler, 0, experiment.device),
        experiment.optim_wrapper,
        [Recorder()],
        2,
        0,
        tmp_path,
        0,
    )
    logging.disable(logging.CRITICAL)
    runner.train()
    logging.disable(logging.NOTSET)
    steps = ["before_train_iter", "after_train_iter"] * 2
    assert seen == [*names[:3], *steps, "after_train_epoch", "after_train", "after_run"]
    assert isinstance(runner.train_loop, StepLoop) and runner.iter == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lr": 1.0}}, r"training.lr is now training.optimizer.lr"),
        ({"tasks": {"depth": {"heads": {}}}}, r"nothing reads the key tasks.depth.heads.*'head'"),
        ({"tasks": {"depht": {}}}, r"unknown label 'depht' .*tasks.depht, data set 'squares'.*'depth'"),
        ({"tasks": {}}, r"tasks must be a mapping of at least one task"),
        ({"head": None}, r"give tasks.semseg.head, or head for all tasks"),
        ({"single_task": {"parts": 1.0}}, r"single_task: 'parts' is not one of the tasks"),
        ({"single_task": 3}, r"single_task is 3"),
        ({"training": {"schedule": "cos"}}, r"training.schedule is 'cos', expected one of .*cosine"),
        ({"training": {"optimizer": {"type": "SGD", "beta": 1}}}, r"SGD takes no 'beta'"),
        ({"training": {"batch_size": 0}}, r"training.batch_size is 0"),
        ({"training": {"amp": "half"}}, r"training.amp is 'half', expected one of bfloat16"),
        ({"sharing": "averaged"}, r"sharing 'averaged' is moved by LAE, a way of continual training alone"),
        ({"validation": 0.1}, r"validation must be a mapping"),
        ({"validation": {"share": 1.5}}, r"validation.share is 1.5"),
        ({"sampler": {"name": "all", "size": 1}}, r"sampler takes no option 'size'"),
        ({"data": {"name": "sqares"}}, r"unknown dense data set 'sqares'.*'squares'"),
        ({"backbone": {"name": "vit_mini_patch4_32", "pretraind": True}}, r"backbone.pretraind"),
    ],
)
def test_mistakes_in_a_recipe(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message) as caught:
        JointExperiment(make_recipe(**changes))
    assert "\n" not in str(caught.value)
