"""Scalars go to MMEngine's backends once, whatever was killed on the way; nothing goes anywhere unless asked."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.runs.logs import FOLDER, Logs, check_visualizer

RECIPE = {"name": "small", "training": {"epochs": 1}}
TENSORBOARD, MLFLOW = {"type": "TensorboardVisBackend"}, {"type": "MLflowVisBackend", "exp_name": "tests"}
WANDB = {"type": "WandbVisBackend", "init_kwargs": {"mode": "offline", "project": "tests"}}


def killed_twice(backend: dict[str, Any], folder: Path) -> None:
    """Steps 1 to 6, with the state saved after 2, 4 and 6: killed at 3, and after the state of 4 was saved, not sent."""
    logs = Logs([backend], RECIPE)
    logs.open(folder)
    logs.add({"loss/a": 0.5, "none": None}, 1)
    logs.add({"loss/a": 0.25}, 2)
    state = logs.state()
    logs.send()
    logs.add({"loss/a": 9.0}, 3)
    logs.close()
    logs = Logs([backend], RECIPE)
    logs.restore(state)
    logs.open(folder)
    logs.add({"loss/a": 0.125}, 3)
    logs.add({"loss/a": 0.0625, "a/accuracy": 75.0}, 4)
    state = logs.state()
    logs.close()
    logs = Logs([backend], RECIPE)
    logs.restore(state)
    logs.open(folder)
    logs.add({"loss/a": 0.03125}, 6)
    logs.state()
    logs.send()
    logs.close()


LOSSES = [(1, 0.5), (2, 0.25), (3, 0.125), (4, 0.0625), (6, 0.03125)]


def test_tensorboard_sees_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_twice(TENSORBOARD, tmp_path)
    events = EventAccumulator(str(tmp_path / FOLDER / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/a")] == LOSSES
    assert [(e.step, e.value) for e in events.Scalars("a/accuracy")] == [(4, 75.0)]
    assert set(events.Tags()["scalars"]) == {"loss/a", "a/accuracy"}
    assert b"training.epochs" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_goes_on_in_its_run(tmp_path):
    import mlflow

    killed_twice(MLFLOW, tmp_path)
    client = mlflow.MlflowClient((tmp_path / FOLDER / "mlflow").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert len(runs) == 1 and runs[0].data.params["training.epochs"] == "1" and runs[0].info.status == "FINISHED"
    found = client.get_metric_history(runs[0].info.run_id, "loss/a")
    assert [(metric.step, metric.value) for metric in found] == LOSSES


def test_wandb_offline_keeps_its_id(tmp_path):
    killed_twice(WANDB, tmp_path)
    sessions = sorted((tmp_path / FOLDER / "wandb/wandb").glob("offline-run-*"))
    # offline-run-DATE_TIME-ID, and -1 behind it where two began in one second
    assert len(sessions) == 3 and len({session.name.split("-")[3] for session in sessions}) == 1


def test_nothing_is_logged_unless_asked_for(tmp_path):
    logs = Logs(check_visualizer([], "small"), RECIPE)
    logs.open(tmp_path)
    logs.add({"loss/a": 1.0}, 1)
    assert logs.state() == {"count": 0, "waiting": []}
    logs.send()
    logs.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("TensorboardVisBackend", "visualizer must be a list of backends"),
        ([{"name": "x"}], "visualizer must be a list of backends"),
        ([{"type": "TensorbordVisBackend"}], "Did you mean 'TensorboardVisBackend'"),
        ([{"type": "MLflowVisBackend", "exp": "a"}], "MLflowVisBackend takes no option 'exp'. Did you mean 'exp_name'"),
        ([TENSORBOARD, TENSORBOARD], "is given twice"),
    ],
)
def test_wrong_backends(given, message):
    with pytest.raises(ConfigError, match=message):
        check_visualizer(given, "small")


@pytest.mark.parametrize(("backend", "package"), [(TENSORBOARD, "tensorboard"), (MLFLOW, "mlflow"), (WANDB, "wandb")])
def test_a_missing_package_is_named_with_the_extra(backend, package, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package or name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'mtpeft\[log\]'"):
        Logs([backend], RECIPE).open(tmp_path)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    logs = Logs([TENSORBOARD], RECIPE)
    logs.open(tmp_path)
    logs._backends[0].add_scalars = lambda values, step: 1 / 0
    logs.add({"loss/a": 1.0}, 1)
    with pytest.raises(MtpeftError, match=r"cannot be logged: ZeroDivisionError.* with visualizer=\[\] without logs"):
        logs.send()
    logs.close()
