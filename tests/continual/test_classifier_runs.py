"""SimpleCIL, APER, RanPAC and EASE on a class-incremental stream: they end the same after kills, and load as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

import mtpeft
from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.runs.progress import Progress

STREAM = {**make_recipe()["stream"], "type": "class_incremental", "train_per_class": 10, "test_per_class": 6}
SHARED: dict[str, Any] = {"method": {"name": "lora", "rank": 2}, "sharing": "shared"}
NAMES: dict[str, dict[str, Any]] = {
    "simplecil": {
        "method": "linear_probe",
        "sharing": None,
        "classifier": {"name": "prototypes", "features": "frozen"},
        "plugins": [{"type": "FirstTasks", "number": 0}],
    },
    "aper": {**SHARED, "classifier": {"name": "prototypes", "features": "both"}, "plugins": [{"type": "FirstTasks"}]},
    "ranpac": {**SHARED, "classifier": {"name": "ranpac", "projection": 64}, "plugins": [{"type": "FirstTasks"}]},
    "ease": {
        "method": {"name": "adaptformer", "bottleneck_dim": 4},
        "sharing": "per_task",
        "classifier": {"name": "ease"},
    },
}


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    parts = {**NAMES[name], **changes}
    classifier, stream = parts.pop("classifier"), {**STREAM, **parts.pop("stream", {})}
    if classifier is not None:
        stream["head"] = {
            "name": "growing",
            "kind": "cosine",
            "learn_scale": True,
            "scale": 1.0,
            "classifier": classifier,
        }
    training = {**make_recipe()["training"], "loss": "local_cross_entropy"}
    return make_recipe(**{"stream": stream, "training": training, **parts})


#: SimpleCIL takes no step within which it could be killed
@pytest.mark.parametrize(("name", "kill_at"), [("aper", 2), ("ranpac", 3), ("ease", 2), ("ease", 7)])
def test_killed_run_ends_the_same(tmp_path: Path, name: str, kill_at: int) -> None:
    train(recipe(name), tmp_path / "whole")
    assert train(recipe(name), tmp_path / "killed", kill_at)[1] is None
    assert train(recipe(name), tmp_path / "killed")[1] is not None
    assert (tmp_path / "whole" / "results.json").read_bytes() == (tmp_path / "killed" / "results.json").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_predicts_as_the_run_did(tmp_path: Path, name: str) -> None:
    experiment, results = train(recipe(name), tmp_path)
    assert results is not None
    predictor = mtpeft.load_run(tmp_path)
    for index, task in enumerate(experiment.stream):
        images, labels = task.test.batch(range(len(task.test)))  # type: ignore[union-attr]
        with torch.no_grad():
            logits = predictor.manager(images, predictor.manager.tasks[-1])
        accuracy = 100 * float((logits.argmax(1) == labels).float().mean())
        assert accuracy == pytest.approx(results["matrix"]["values"][-1][index], abs=1e-4)


def test_simplecil_depends_on_no_order_and_no_size_of_tasks(tmp_path: Path) -> None:
    """Its classes' means are what they are, whichever task they come in."""
    found = []
    for number, stream in enumerate(({"num_tasks": 5}, {"num_tasks": 2}, {"num_tasks": 5, "order_seed": 7})):
        experiment, results = train(recipe("simplecil", stream=stream), tmp_path / str(number))
        assert results is not None
        right = [v * len(t.test) for v, t in zip(results["matrix"]["values"][-1], experiment.stream, strict=True)]
        found.append(round(sum(right) / 100))
    assert len(set(found)) == 1 and found[0] > 9  # of 60, by features of a random network


def test_later_tasks_change_no_weight_but_their_own(tmp_path: Path) -> None:
    experiment, _ = train(recipe("ease"), tmp_path)
    manager = experiment.manager
    source = manager.attachments[0].weights
    for task in manager.tasks[:-1]:
        assert any(p.abs().sum() > 0 for p in source.bank(task).parameters())  # type: ignore[operator]
    first, last = (dict(source.bank(manager.tasks[i]).named_parameters()) for i in (0, -1))  # type: ignore[operator]
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_views_of_all_tasks_in_one_pass_are_those_of_a_pass_each(tmp_path: Path) -> None:
    from mtpeft.manager.classes import views_of

    experiment, _ = train(recipe("ease"), tmp_path)
    manager: Any = experiment.manager.eval()
    images = torch.randn(3, *manager.anatomy.input_size[:1], 32, 32)
    head = manager.head(manager.tasks[-1])
    with torch.no_grad():
        together = views_of(manager, images, manager.tasks[-1], head.classifier)
        apart = torch.stack([manager.features(images, task) for task in manager.tasks], dim=1)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ease", {"sharing": "shared"}, "reads the weights of each task apart"),
        ("ease", {"classifier": None}, "weights cannot be per task"),
        ("aper", {"sharing": "averaged", "plugins": [{"type": "LAE"}]}, "reads one set of weights"),
        ("aper", {"method": "full"}, "trains the backbone's own weights"),
        ("aper", {"classifier": None}, "leaves later tasks to a classifier"),
        ("ranpac", {"plugins": [{"type": "ClassifierAlignment"}]}, "aligns a trained head"),
        ("simplecil", {"stream": {"type": "task_incremental"}}, "growing"),
    ],
)
def test_what_does_not_go_together_is_one_line(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment(recipe(name, **changes), Progress())
