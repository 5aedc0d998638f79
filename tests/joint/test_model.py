"""The model's losses: labels of some samples only, the fewest passes, accumulation, precision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from squares import TASKS, make_recipe

from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.joint.experiment import JointExperiment
from mtpeft.joint.model import JointModel
from mtpeft.runs.update import NonFiniteLossError

METHODS = {
    "shared": {},
    "per_task": {"method": {"name": "adaptformer", "bottleneck_dim": 4}, "sharing": "per_task"},
    "none": {"method": "linear_probe", "sharing": None},
}


def built(**changes: Any) -> JointExperiment:
    """An experiment that draws no random numbers in the forward pass."""
    changes.setdefault("method", {"name": "lora", "rank": 4})
    experiment = JointExperiment(make_recipe(**changes))
    with torch.no_grad():  # LoRA and adapters start at zero: without this all tasks would see the same features
        for _, parameter in experiment.manager.trainable_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return experiment


def batch(experiment: JointExperiment, indices: Sequence[int] = (0, 1, 2, 3)) -> dict[str, Any]:
    """Training samples with all their labels."""
    return next(experiment.data.batches("train", 0, indices, len(indices)))


def subset(full: dict[str, Any], rows: dict[str, list[int]]) -> dict[str, Any]:
    """The same images, with the labels of `rows` only."""
    labels = {t: (torch.tensor(r), full["labels"][t][1][torch.tensor(r, dtype=torch.long)]) for t, r in rows.items()}
    return {"images": full["images"], "labels": labels}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "rows",
    [
        {"semseg": [0, 1, 2, 3], "depth": [0, 1, 2, 3]},
        {"semseg": [0, 2], "depth": [1], "normals": [3]},
        {"semseg": [0, 1, 2], "depth": [1, 3]},
        {"normals": [2, 0]},
    ],
)
def test_missing_labels_are_masked(method: str, rows: dict[str, list[int]]) -> None:
    """The loss of a batch in which samples have different labels is that of each task on its samples alone."""
    experiment = built(**METHODS[method])
    full = batch(experiment)
    model = experiment.model.eval()
    found = model(**subset(full, rows))
    assert set(found) == set(rows)
    for task, chosen in rows.items():
        alone = {"images": full["images"][chosen], "labels": {task: full["labels"][task][1][chosen]}}
        expected = model.kinds[task].loss(experiment.manager(alone["images"], task), alone["labels"][task])
        torch.testing.assert_close(found[task], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "rows", "passes"),
    [
        ("shared", {t: [0, 1, 2, 3] for t in TASKS}, 1),
        ("shared", {"semseg": [0, 1, 2], "depth": [1, 3]}, 1),
        ("shared", {"semseg": [0, 2], "depth": [1], "normals": [3]}, 1),
        ("per_task", {"semseg": [0, 2], "depth": [1], "normals": [3]}, 1),
        ("per_task", {"semseg": [0, 1, 2], "depth": [1, 3]}, 1),
        ("per_task", {t: [0, 1, 2, 3] for t in TASKS}, 3),
    ],
)
def test_fewest_passes(method: str, rows: dict[str, list[int]], passes: int) -> None:
    experiment = built(**METHODS[method])
    calls = []
    experiment.manager.backbone.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    experiment.model(**subset(batch(experiment), rows))
    assert len(calls) == passes


def test_unknown_task_in_a_batch() -> None:
    experiment = built()
    full = batch(experiment)
    full["labels"]["depht"] = full["labels"].pop("depth")
    with pytest.raises(UnknownNameError, match=r"unknown task 'depht' \(in the batch\)\. Did you mean 'depth'"):
        experiment.model(full["images"], full["labels"])


def test_no_valid_pixel_is_skipped_and_counted() -> None:
    """No loss, no gradient and no NaN from the label; the other samples' loss is as without it."""
    experiment = built(data={"empty": True})
    full = batch(experiment)
    found = experiment.model.eval()(**subset(full, {"semseg": [0, 1], "depth": [0]}))
    assert set(found) == {"semseg"}
    rest = experiment.model(**subset(full, {"depth": [0, 1]}))
    torch.testing.assert_close(rest["depth"], experiment.model(**subset(full, {"depth": [1]}))["depth"])
    losses = experiment.model.train_step({"parts": [full], "after": {}}, experiment.optim_wrapper)
    assert set(losses) == set(TASKS) and experiment.model.skipped == {"semseg": 0, "depth": 1, "normals": 0}


def parts_of(experiment: JointExperiment, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Samples 0, 1, ... in parts of the given sizes; sample 0 has no depth at all, others lack a label."""
    bounds = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return [batch(experiment, range(a, b)) for a, b in pairwise(bounds)]


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "mgda"])
def test_accumulation_equals_the_larger_batch(weighting: str) -> None:
    """Also where parts differ in their numbers of labels and valid pixels."""
    options = {"data": {"missing": 3, "empty": True}, "weighting": {"name": weighting}, "training": {"clip": 0.5}}
    states = []
    for sizes in ((6,), (2, 4), (1, 2, 3)):
        experiment = built(**options)
        for _ in range(3):
            experiment.model.train_step({"parts": parts_of(experiment, sizes), "after": {}}, experiment.optim_wrapper)
        states.append({n: p.detach().clone() for n, p in experiment.model.trained()})
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_on_the_cpu(precision: str) -> None:
    """The forward pass runs in that precision, weights stay float32, and the loss falls."""
    experiment = built(training={"amp": precision, "steps": 20})
    seen = []
    experiment.manager.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    step = {"parts": [batch(experiment, range(8))], "after": {}}
    losses = [sum(experiment.model.train_step(step, experiment.optim_wrapper).values()) for _ in range(12)]
    assert set(seen) == {getattr(torch, precision)}
    assert all(p.dtype is torch.float32 for p in experiment.model.parameters())
    assert losses[-1] < 0.9 * losses[0]


def test_float16_and_gradient_weighting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.amp float16 .* bfloat16"):
        built(training={"amp": "float16"}, weighting={"name": "pcgrad"})


def test_non_finite_gradient() -> None:
    """A finite loss whose gradient is not: the step is named when it is read."""
    experiment = built()
    experiment.model.trained()[0][1].register_hook(lambda grad: grad * float("inf"))
    experiment.model.train_step({"parts": [batch(experiment)], "after": {}}, experiment.optim_wrapper)
    with pytest.raises(NonFiniteLossError, match="step 1: the gradient is not finite"):
        experiment.model.recent.read()


def test_is_an_mmengine_model() -> None:
    from mmengine.model import BaseModel

    experiment = built()
    assert isinstance(experiment.model, BaseModel) and isinstance(experiment.model, JointModel)
    predicted = experiment.model(batch(experiment)["images"], mode="predict")
    assert {task: tuple(out.shape) for task, (_, out) in predicted.items()} == {
        "semseg": (4, 3, 32, 32),
        "depth": (4, 1, 32, 32),
        "normals": (4, 3, 32, 32),
    }
