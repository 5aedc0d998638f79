"""Dense tasks one after another: each measured in its own metric, resumed as class labels are, and what is refused."""

from __future__ import annotations

import pprint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import train
from tiles import changed_stream, make_dense

from mtpeft.cli.main import main
from mtpeft.continual.experiment import Experiment
from mtpeft.data.dense.stream import build_dense_stream
from mtpeft.data.loader import ResumableLoader
from mtpeft.errors import DataError, MtpeftError, UnknownNameError
from mtpeft.evaluation.results import measures_of

PER_TASK = {"method": {"name": "adaptformer", "bottleneck_dim": 4}, "sharing": "per_task"}
LONG = {"epochs": 10, "batch_size": 4, "optimizer": {"type": "AdamW", "lr": 0.01}, "schedule": "cosine"}
#: mmsegmentation's heads need a tap at the end of each quarter of a plain transformer
DEEPER = {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 4, "patch_size": 8}}
CONFIG = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def test_every_task_is_measured_in_its_own_metric(tmp_path: Path) -> None:
    """Learned tasks are far better than untrained, in each one's direction; the averages are relative."""
    single = {"semseg": 90.0, "depth": 0.2, "normals": 5.0}
    experiment, results = train(make_dense(training=LONG, single_task=single), tmp_path / "run")
    assert results is not None and results["scenario"] == "dense_incremental"
    assert [(t["metric"], t["unit"], t["higher_is_better"]) for t in results["tasks"]] == [
        ("mIoU", "%", True),
        ("rmse", "m", False),
        ("mean", "deg", False),
    ]
    assert [len(t["classes"]) for t in results["tasks"]] == [3, 0, 0]
    matrix, before = np.array(results["matrix"]["values"]), np.array(results["reference"]["random_init"])
    assert (np.array(results["matrix"]["samples"]) == 12).all() and np.isfinite(matrix).all()
    assert matrix[0, 0] > 2 * before[0]
    assert matrix[1, 1] < 0.5 * before[1] and matrix[2, 2] < 0.5 * before[2]
    measures = measures_of(results)
    assert measures["average_forgetting"]["value"] is None
    lost = [100 * (matrix[0, 0] - matrix[2, 0]) / matrix[0, 0], 100 * (matrix[2, 1] - matrix[1, 1]) / matrix[1, 1]]
    assert measures["relative_forgetting_per_task"]["value"] == [*map(pytest.approx, lost), None]
    assert measures["average_relative_forgetting"]["value"] == pytest.approx(np.mean(lost))
    gain = (matrix[2] - list(single.values())) / list(single.values()) * [1, -1, -1]
    assert measures["multi_task_delta"]["value"] == pytest.approx(100 * gain.mean())
    assert results["reference"]["single_task"] == [90.0, 0.2, 5.0]
    assert results["baselines"] == {}
    assert experiment.manager.backbone_unchanged()


def test_the_matrix_holds_the_kinds_own_measure(tmp_path: Path) -> None:
    """The last row, computed again without the engine."""
    experiment, results = train(make_dense(), tmp_path / "run")
    assert results is not None
    experiment.manager.eval()
    for j, task in enumerate(experiment.stream):
        images, labels = next(iter(ResumableLoader(task.test, 12, seed=0, epoch=0, shuffle=False)))
        measure = task.kind.measure()
        with torch.no_grad():
            measure.update(experiment.manager(images, task.name), labels)
        assert results["matrix"]["values"][2][j] == pytest.approx(measure.compute()[task.kind.metric], rel=1e-5)


def test_tasks_of_their_own_forget_exactly_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2T evaluations give the matrix that T + T^2 give."""
    quick, results = train(make_dense(**PER_TASK), tmp_path / "quick")
    assert results is not None and quick.manager.isolated and quick.evaluations == 6
    assert measures_of(results)["forgetting_per_task"]["value"] == [0.0, 0.0, None]
    assert measures_of(results)["average_relative_forgetting"]["value"] == 0.0
    monkeypatch.setattr(type(quick.manager), "isolated", property(lambda self: False))
    slow, _ = train(make_dense(**PER_TASK), tmp_path / "slow")
    assert slow.evaluations == 12
    np.testing.assert_array_equal(quick.measured.matrix.values, slow.measured.matrix.values)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"method": {"name": "lora", "rank": 4}, "sharing": "polyhistor"},
        {"method": "vmt_adapter", "sharing": None},
        {"method": "linear_probe", "sharing": None},
        {"plugins": [{"type": "MASPlugin"}]},
    ],
    ids=str,
)
def test_ways_of_sharing(changes: dict[str, Any], tmp_path: Path) -> None:
    experiment, results = train(make_dense(**changes), tmp_path / "run")
    assert results is not None and np.isfinite(experiment.measured.matrix.values).all()
    assert not np.array_equal(experiment.measured.matrix.row(0)[:1], experiment.measured.reference[:1])


RUNS: dict[str, dict[str, Any]] = {
    "shared lora, head with batch norm and dropout": {
        "stream": changed_stream(head={"name": "segformer", "embed_dim": 8, "dropout": 0.2}),
        "backbone": DEEPER,
    },
    "adapters per task": PER_TASK,
    "ewc": {"plugins": [{"type": "EWCPlugin", "ewc_lambda": 10.0}]},
    "si": {"plugins": [{"type": "SynapticIntelligencePlugin", "si_lambda": 1.0}]},
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_ends_the_same(name: str, tmp_path: Path) -> None:
    """18 steps in all, 6 a task; killed inside the second epoch of the second task, and again two steps later."""
    recipe = make_dense(**RUNS[name])
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    for kill_at in (11, 3):
        assert train(recipe, tmp_path / "killed", kill_at)[1] is None
    assert train(recipe, tmp_path / "killed")[1] is not None
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_ewc_holds_the_tasks_before(tmp_path: Path) -> None:
    """Its importances come from the tasks' own losses; a strong penalty keeps the shared weights in place."""
    recipe = make_dense(training={**LONG, "epochs": 5})
    free, _ = train(recipe, tmp_path / "free")
    plugins = [{"type": "EWCPlugin", "ewc_lambda": 1e6}]
    held, _ = train({**recipe, "plugins": plugins}, tmp_path / "held")
    assert held.measured.matrix[2, 0] > free.measured.matrix[2, 0]
    assert held.measured.matrix[0, 0] - held.measured.matrix[2, 0] < 0.5 * (
        free.measured.matrix[0, 0] - free.measured.matrix[2, 0]
    )


def test_batches_are_a_function_of_seed_task_and_epoch() -> None:
    stream = build_dense_stream(changed_stream(), CONFIG, seed=5)
    plain = stream[0].train.plain()

    def load(view: Any, epoch: int) -> torch.Tensor:
        return next(iter(ResumableLoader(view, 12, seed=0, epoch=epoch, shuffle=False)))[0]

    assert torch.equal(load(stream[0].train, 1), load(stream[0].train, 1))
    assert not torch.equal(load(stream[0].train, 1), load(stream[0].train, 2))
    assert not torch.equal(load(stream[0].train, 1), load(stream[1].train, 1))
    assert torch.equal(load(plain, 1), load(plain, 2))
    assert stream[0].train.view.dataset is stream[1].train.view.dataset, "opened once"


def test_an_image_without_the_label_has_no_valid_pixel() -> None:
    stream = build_dense_stream(changed_stream(data={"name": "tiles", "missing": 3}), CONFIG)
    depth = stream[1]
    _, labels = next(iter(ResumableLoader(depth.train, 12, seed=0, epoch=0, shuffle=False)))
    assert labels.shape == (12, 1, 32, 32)
    assert depth.kind.valid(labels).flatten(1).any(1).tolist() == [i % 3 > 0 for i in range(12)]


def test_no_label_at_all_is_an_error() -> None:
    recipe = make_dense(stream=changed_stream(data={"name": "tiles", "missing": 1}))
    experiment = Experiment(recipe)
    with pytest.raises(DataError, match="task 'depth': no pixel of the validation images has a valid label"):
        experiment.strategy.measure(1)


def test_options_of_single_tasks() -> None:
    tasks = {
        "far": {"label": "depth", "options": {"max_depth": 5.0}, "metric": "abs_rel", "weight": 3.0},
        "near": {"label": "depth", "head": {"name": "segformer", "embed_dim": 8}},
    }
    experiment = Experiment(make_dense(stream=changed_stream(tasks=tasks), backbone=DEEPER))
    far, near = experiment.stream
    assert far.kind.max_depth == 5.0 and near.kind.max_depth == 100.0
    assert [(m.metric, m.unit) for m in experiment.measured.matrix.tasks] == [("abs_rel", "%"), ("rmse", "m")]
    assert [experiment.manager.head_specs[t]["name"] for t in ("far", "near")] == ["dense_linear", "segformer"]
    output, label = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    first, second = experiment.strategy.objectives
    assert first.loss(output, label) == pytest.approx(3 * second.loss(output, label))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"plugins": [{"type": "LwFPlugin"}]}, "'LwFPlugin' cannot be used on dense tasks: it distils a softmax"),
    ({"plugins": [{"type": "LAE"}]}, "'LAE' cannot be used on dense tasks"),
    ({"plugins": [{"type": "ReplayPlugin"}]}, "labels differ in shape and unit. Use EWCPlugin"),
    ({"plugins": [{"type": "AGEMPlugin", "patterns_per_experience": 2, "sample_size": 2}]}, "labels differ in shape"),
    ({"plugins": [{"type": "EarlyStoppingPlugin", "patience": 1}]}, "it watches Avalanche's accuracy"),
    ({"plugins": [{"type": "GSS_greedyPlugin", "input_size": (3, 32, 32)}]}, "it calls the model without telling"),
    ({"stream": changed_stream(validation={"share": 0.1})}, "nothing is chosen by validation data"),
    ({"training": {"loss": "local_cross_entropy"}}, "a dense task has the loss of its kind"),
    ({"training": {"eval_every": 1}}, "training.eval_every serves plugins"),
    ({"augment": {"flip": True}}, "use stream.transforms.train"),
    ({"baselines": True}, "leave the key baselines out"),
    ({"single_task": {"dept": 1.0}}, "'dept' is not one of the tasks"),
    ({"stream": changed_stream(num_tasks=3)}, "nothing reads the key stream.num_tasks"),
    ({"stream": changed_stream(transforms={"tran": []})}, "nothing reads the key stream.transforms.tran"),
    ({"stream": changed_stream(tasks={"depth": {"heads": {}}})}, "stream.tasks.depth.heads. Did you mean 'head'"),
    ({"stream": changed_stream(tasks=[])}, "stream.tasks must name at least one task"),
    ({"stream": changed_stream(tasks=["depth", "depth"])}, "a task occurs twice"),
    ({"stream": changed_stream(tasks=["dept"])}, "unknown label 'dept' .*stream.tasks.dept.*Did you mean 'depth'"),
    ({"stream": changed_stream(head=None)}, "give stream.tasks.semseg.head, or stream.head"),
    ({"stream": changed_stream(data=None)}, "give stream.tasks.semseg.data, or stream.data"),
    ({"stream": {"type": "dense_incrementl"}}, "Did you mean 'dense_incremental'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MtpeftError, match=message):
        Experiment(make_dense(**changes))


def test_unknown_kind_is_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown task kind 'dpth'"):
        build_dense_stream(changed_stream(tasks={"depth": {"kind": "dpth"}}), CONFIG)


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"stream\.tasks\.semseg: no training image"):
        build_dense_stream(changed_stream(data={"name": "tiles", "length": 0}), CONFIG)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run, its page, and the same numbers when the final model is evaluated again."""
    file, folder = tmp_path / "tiles_sequence.py", str(tmp_path / "run")
    file.write_text("\n".join(f"{key} = {pprint.pformat(value)}" for key, value in make_dense().items()))
    assert main(["continual", str(file), "--out", folder]) == 0
    page = (tmp_path / "run/report.html").read_text()
    assert "mIoU" in page and "rmse" in page
    assert "dense tasks have none" in page and "not measured" not in page
    assert main(["evaluate", folder]) == 0
    assert "depth: rmse" in capsys.readouterr().out
