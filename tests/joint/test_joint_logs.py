"""The key `visualizer` of a joint run over kills, and a run measured on what it holds out of its training part."""

from __future__ import annotations

from pathlib import Path

from squares import make_recipe, train


def steps(folder: Path, name: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs/tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_a_killed_run_logs_each_step_once_and_ends_the_same(tmp_path):
    """Eight steps, a point and a state every second one, evaluations after 4 and 8; killed in step 5, then in step 7."""
    train(make_recipe(), tmp_path / "plain")
    recipe = make_recipe(visualizer=[{"type": "TensorboardVisBackend"}])
    for kill_at in (5, 3):
        assert train(recipe, tmp_path / "run", kill_at)[1] is None
    assert train(recipe, tmp_path / "run")[1] is not None
    assert (tmp_path / "run/results.json").read_bytes() == (tmp_path / "plain/results.json").read_bytes()
    assert steps(tmp_path / "run", "loss/depth") == steps(tmp_path / "run", "rate") == [2, 4, 6, 8]
    assert steps(tmp_path / "run", "depth/rmse") == [4, 8]


def test_measured_on_what_is_held_out(tmp_path):
    validation = {"share": 0.25, "instead_of_test": True}
    experiment, results = train(make_recipe(validation=validation), tmp_path / "run")
    assert results is not None
    assert {(task["train_samples"], task["val_samples"]) for task in results["tasks"]} == {(9, 3)}
    assert all(view.dataset.dataset.split == "train" for view in experiment.data.val)
