"""Runs with an aligned head: killed, saved, loaded, gone on with, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from aligning import COSINE, LOCAL, SLCA, SSIAT, STREAM
from small_recipe import make_recipe
from small_runs import Killed, train

import mtpeft
from mtpeft.continual.alignment import ClassifierAlignment
from mtpeft.continual.command import evaluate
from mtpeft.continual.experiment import Experiment
from mtpeft.errors import ConfigError
from mtpeft.runs.state import State

RUNS: dict[str, dict[str, Any]] = {
    "restored": {"plugins": [SLCA]},
    "drift, cosines": {"plugins": [SSIAT], "stream": COSINE, "training": {**LOCAL, "margin": 0.1}},
}


def position(folder: Path) -> tuple[int, int]:
    """The experience and the epoch at which the saved state stands."""
    found = (State(folder / "checkpoints").read() or {})["position"]
    return found["experience"], found["epoch"]


@pytest.mark.parametrize("name", RUNS)
def test_killed_while_a_task_is_trained_aligned_and_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second task, within its alignment, after it and before the row is measured, and in the third task."""
    recipe = make_recipe(**{"stream": STREAM, "training": LOCAL, **RUNS[name]})
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    killed = tmp_path / "killed"
    assert train(recipe, killed, kill_at=7)[1] is None  # four steps a task
    drawn, align = ClassifierAlignment.drawn, ClassifierAlignment.align
    calls: list[int] = []

    def dies(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return drawn(self, *args)

    def dies_after(self: Any, *args: Any) -> Any:
        align(self, *args)
        raise Killed

    for attribute, function in (("drawn", dies), ("align", dies_after)):
        with monkeypatch.context() as patch:
            patch.setattr(ClassifierAlignment, attribute, function)
            assert train(recipe, killed)[1] is None
        assert position(killed) == (1, 1)
    assert train(recipe, killed, kill_at=5)[1] is None
    assert position(killed) == (2, 1)
    assert train(recipe, killed)[1] is not None
    assert (killed / "results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_run_predicts_by_the_aligned_head(name: str, tmp_path: Path) -> None:
    """model/ loaded elsewhere gives the numbers of results.json, and so does `mtpeft evaluate`."""
    recipe = make_recipe(**{"stream": STREAM, "training": LOCAL, **RUNS[name]})
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None
    run = mtpeft.load_run(tmp_path / "run", backbone=Experiment(recipe).manager.detach())
    for task, measured in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        images, labels = task.test.batch(range(len(task.test)))
        with torch.no_grad():
            logits = run.manager(images, "task2")
            assert torch.equal(logits, experiment.manager.eval()(images, "task2"))
        assert 100 * ((logits.argmax(1) == labels).sum().item() / len(labels)) == measured
    assert evaluate(tmp_path / "run") == 0


def test_a_run_that_gets_more_tasks_goes_on_from_the_trained_head(tmp_path: Path) -> None:
    recipe = make_recipe(**{"stream": STREAM, "training": LOCAL, **RUNS["restored"]})
    _, whole = train(recipe, tmp_path / "whole")
    train({**recipe, "stream": {**recipe["stream"], "first": 2}}, tmp_path / "short")
    _, grown = train({**recipe, "continue_from": str(tmp_path / "short")}, tmp_path / "grown")
    assert whole is not None and grown is not None and grown["matrix"] == whole["matrix"]


def test_statistics_are_written_once(tmp_path: Path) -> None:
    """A file for the means and the factors of each class; a checkpoint within the next task writes none of them again."""
    recipe = make_recipe(stream=STREAM, training=LOCAL, plugins=[SLCA], checkpoint={"interval": 1})
    train(recipe, tmp_path / "run", kill_at=7)
    lines = (tmp_path / "run/checkpoints").glob("journal-*.jsonl")
    text = "".join(path.read_text() for path in lines)
    assert text.count('"alignment factors"') == text.count('"alignment means"') == 2


TASK = make_recipe()["stream"]
PARTS = {"a": {"classes": ["0", "1"], "head": {"name": "growing", "kind": "cosine"}}, "b": {"classes": ["2", "3"]}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stream": TASK}, "aligns the classes of one growing head; a task_incremental stream has none"),
    ({"stream": {**STREAM, "first": 1}}, "aligns the classes of several tasks, and this stream has one task"),
    ({"plugins": [SLCA, {"type": "ReplayPlugin"}]}, "in place of a memory: leave out plugin 'ReplayPlugin'"),
    ({"plugins": [SLCA, SSIAT]}, "'ClassifierAlignment' stands twice"),
    ({"plugins": [{**SLCA, "drift_width": 2.0}]}, "drift_width is for drift='semantic'"),
    ({"plugins": [{**SLCA, "drift": "none"}]}, "plugin 'ClassifierAlignment': drift is 'none'"),
    ({"plugins": [{**SLCA, "rank": 2}]}, "rank is 2 with covariance='full'"),
    ({"plugins": [{**SLCA, "sample": 2}]}, "takes no option 'sample'. Did you mean 'samples'"),
    ({"plugins": [], "training": {"margin": 0.1}}, "training.margin is for cosines: set stream.head"),
    ({"plugins": [], "stream": TASK, "training": {"margin": 0.1}}, "training.margin is for cosines: set stream.head"),
    ({"stream": {**STREAM, "head": {"name": "linear"}}}, "the tasks share one linear head; leave out stream.head, or give"),
    (
        {"stream": {"type": "class_incremental", "data": {"type": "Digits"}, "tasks": PARTS}},
        "the tasks share one growing head, but task 'b' asks for another",
    ),
    ({"stream": {**TASK, "head": {"name": "growing"}}}, "a growing head is for class_incremental streams"),
    ({"stream": {**STREAM, "head": {"name": "growing", "scale": 3.0}}}, "scale and learn_scale are for kind='cosine'"),
    ({"stream": {**STREAM, "head": {"name": "growing", "kinds": 3.0}}}, "takes no option 'kinds'"),
    ({"stream": {**STREAM, "head": {"name": "growing", "num_classes": 2}}}, "leave out head.num_classes"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_said_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Experiment(make_recipe(**{"stream": STREAM, "plugins": [SLCA], **changes}))
    assert "\n" not in str(caught.value)
