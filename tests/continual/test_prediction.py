"""`mtpeft.load_run` of continual runs: the numbers of the run's own evaluation, for tasks known and unknown."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipe import make_recipe
from small_runs import train
from tiles import Tiles, make_dense

import mtpeft
from mtpeft.cli.main import main
from mtpeft.continual.command import evaluate
from mtpeft.continual.experiment import Experiment
from mtpeft.data.digits import Digits
from mtpeft.data.video import build_video_dataset, read_clip
from mtpeft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from mtpeft.runs.folder import read_recipe
from mtpeft.runs.prediction import Predictor

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40), "yellow": (210, 200, 50)}


def image_folder(root: Path, names: Sequence[str] = tuple(COLOURS), train: int = 6, test: int = 5) -> Path:
    """A folder per class of noisy pictures of different sizes and formats."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                size = (int(rng.integers(30, 60)), int(rng.integers(30, 60)), 3)
                pixels = np.clip(rng.normal(COLOURS[name], 90, size), 0, 255).astype(np.uint8)
                end = ("png", "jpg")[number % 2]
                Image.fromarray(pixels).save(root / part / name / f"{number}.{end}")
    return root


def folder_recipe(root: Path, kind: str, **changes: Any) -> dict[str, Any]:
    stream = {"type": kind, "data": {"type": "ImageFolder", "root": str(root)}, "num_tasks": 2}
    if kind == "domain_incremental":
        stream["domains"] = [{"type": "rotation", "degrees": 90}, {"type": "none"}]
        del stream["num_tasks"]
    return make_recipe(stream=stream, **changes)


def accuracy(found: Sequence[Any], data: Any) -> float:
    """In percent, as the run has it."""
    right = sum(p.index == label for p, label in zip(found, data.targets, strict=True))
    return 100.0 * (right / len(found))


def check_classes(experiment: Experiment, results: Any, folder: Path, known: bool) -> Predictor:
    """Predictions of all test files give the last row of the matrix."""
    predictor = mtpeft.load_run(folder, "cpu")
    for task, expected in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        data: Any = task.test
        found: Any = predictor.predict(data.files, task.name if known else None)
        assert accuracy(found, data) == expected
        names = [data.classes[label] for label in data.targets] if known else None
        assert names is None or sum(p.name == n for p, n in zip(found, names, strict=True)) == round(
            expected * len(found) / 100
        )
    return predictor


@pytest.mark.parametrize("kind", ["task_incremental", "class_incremental"])
def test_predictions_of_files_give_the_runs_accuracy(kind: str, tmp_path: Path) -> None:
    """Each file read alone, resized and cropped as the run did; the training data are not needed."""
    root = image_folder(tmp_path / "data")
    experiment, results = train(folder_recipe(root, kind), tmp_path / "run")
    files = [(task.name, list(task.test.files)) for task in experiment.stream]  # type: ignore[union-attr]
    shutil.rmtree(root / "train")
    predictor = check_classes(experiment, results, tmp_path / "run", kind == "task_incremental")
    assert predictor.tasks == ["task0", "task1"] and predictor.scenario == kind
    one: Any = predictor.predict(files[0][1][0], "task0")[0]
    assert one.names == ("blue", "green") and float(one.probabilities.sum()) == pytest.approx(1)
    assert one.top(2)[0][0] == one.name and len(one.top(1)) == 1


def test_a_class_incremental_run_masks_to_a_task_that_is_named(tmp_path: Path) -> None:
    """Without a task the classes are all; with one they are its own, by the same scores."""
    root = image_folder(tmp_path / "data")
    train(folder_recipe(root, "class_incremental"), tmp_path / "run")
    file = root / "test/red/0.png"
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    everything: Any = predictor.predict(file)[0]
    assert everything.task is None and everything.names == tuple(COLOURS)
    both: Any = predictor.predict([file], tasks=["task1", "task0"])[0]
    assert list(both) == ["task1", "task0"] and both["task1"].names == ("red", "yellow")
    assert torch.equal(torch.cat([both["task0"].output, both["task1"].output]), everything.output)
    assert float(both["task1"].probabilities.sum()) == pytest.approx(1)


def test_a_domain_incremental_run_and_corrupted_pictures(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data")
    experiment, results = train(folder_recipe(root, "domain_incremental"), tmp_path / "run")
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    assert results is not None
    for task, expected in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        data: Any = task.test
        found: Any = predictor.predict([data.raw(k) for k in range(len(data))])  # tensors as the domain shows them
        assert accuracy(found, data) == expected
    assert [p.task for p in predictor.predict(data.files[:1])] == [None]
    named: Any = predictor.predict(data.files[:1], task.name)[0]
    assert named.task == task.name and named.names == tuple(COLOURS)


def test_an_ensemble_predicts_as_it_was_measured(tmp_path: Path) -> None:
    """LAE: the larger of two probabilities counts."""
    root = image_folder(tmp_path / "data")
    recipe = folder_recipe(root, "class_incremental", sharing="averaged", plugins=[{"type": "LAE", "momentum": 0.8}])
    experiment, results = train(recipe, tmp_path / "run")
    predictor = check_classes(experiment, results, tmp_path / "run", known=False)
    assert max(a.weights.members for a in predictor.manager.methods) == 2


@pytest.mark.parametrize(
    ("method", "sharing"),
    [("adaptformer", "polyhistor"), ("adaptformer", "hyperformer"), ("full", "shared"), ("lst", "per_task")],
)
def test_generated_weights_and_weights_of_the_backbone_come_back(method: str, sharing: str, tmp_path: Path) -> None:
    recipe = folder_recipe(image_folder(tmp_path / "data"), "task_incremental", method=method, sharing=sharing)
    experiment, results = train(recipe, tmp_path / "run")
    check_classes(experiment, results, tmp_path / "run", known=True)


def test_small_images_in_memory_are_resized_whole(tmp_path: Path) -> None:
    """Digits, as arrays, PIL images and files, go through the resize of the run: all the same, and its accuracy."""
    experiment, results = train(make_recipe(), tmp_path / "run")
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    assert results is not None
    digits = Digits(train=False)
    chosen = [k for k, label in enumerate(digits.targets) if label in (0, 1)]
    arrays = [digits.data[k] for k in chosen]
    found: Any = predictor.predict(arrays, "task0")
    files = []
    for number, array in enumerate(arrays):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(files[-1])
    for other in (
        files,
        [Image.fromarray(a) for a in arrays],
        [torch.from_numpy(a)[None] for a in arrays],
        np.stack(arrays)[..., None],
    ):
        again: Any = predictor.predict(other, "task0")
        assert all(torch.equal(a.output, b.output) for a, b in zip(found, again, strict=True))
    test: Any = experiment.stream[0].test
    own: Any = predictor.predict([test.raw(k) for k in range(len(test))], "task0")
    assert accuracy(own, test) == results["matrix"]["values"][-1][0]


# clips ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the films are made, once."""
    return tmp_path_factory.mktemp("motion")


def motion(cache: Path) -> dict[str, Any]:
    return {"cache": str(cache), "train_per_class": 4, "test_per_class": 3, "length": 8}


@pytest.mark.parametrize("more", [{}, {"views": 2, "crops": 3}, {"sampling": "dense", "stride": 1}])
def test_clips_are_sampled_as_in_the_run(
    more: dict[str, Any], cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From files, and from all frames of a video; views are averaged as evaluation does."""
    data = {"type": "motion", **motion(cache), "frames": 4, "limit": None, **more}
    tasks = {"first": {"classes": ["pan_left", "forward"]}, "second": {"classes": ["reverse", "zoom_in"]}}
    stream = {"type": "task_incremental", "data": data, "tasks": tasks}
    training = {"epochs": 1, "batch_size": 4, "optimizer": {"type": "AdamW", "lr": 0.003}}
    experiment, results = train(make_recipe(stream=stream, training=training, strips=0), tmp_path / "run")
    assert results is not None
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    for task, expected in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        clips: Any = task.test
        found: Any = predictor.predict([r.path for r in clips.dataset.records], task.name)
        assert accuracy(found, clips) == expected
    path = build_video_dataset("motion", "val", **motion(cache), limit=None).records[0].path
    frames = read_clip(path, np.arange, limit=None).frames
    by_file, by_frames = predictor.predict(path, "first"), predictor.predict(frames, "first")
    assert torch.equal(by_file[0].output, by_frames[0].output)  # type: ignore[union-attr]
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(DataError, match=r"a\.png: an image, and the model takes videos"):
        predictor.predict(picture, "first")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), path, str(picture), "--task", "first", "--format", "csv"]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[1].startswith(f"{path},first,{by_file[0].name},")  # type: ignore[union-attr]
    assert "1 of 2 inputs cannot be read" in told.err and "a.png: an image" in told.err
    with pytest.raises(DataError, match=r"input 0: float32 .* a clip is a file, or uint8 frames"):
        predictor.predict(frames.astype(np.float32), "first")


# dense tasks ------------------------------------------------------------------------------------------------------


def test_dense_tasks_of_a_stream_give_the_runs_metrics(tmp_path: Path) -> None:
    experiment, results = train(make_dense(), tmp_path / "run")
    assert results is not None
    predictor = mtpeft.load_run(tmp_path / "run", "cpu")
    tiles = Tiles("val")
    found: Any = predictor.predict([tiles[k].image for k in range(len(tiles))])
    for task, expected in zip(experiment.stream, results["matrix"]["values"][-1], strict=True):
        measure = task.kind.measure()
        for one, k in zip(found, range(len(tiles)), strict=True):
            label = task.kind.layout.tensor(tiles[k].labels[task.name])
            measure.update(one[task.name].output[None], label[None])
        assert measure.compute()[task.kind.metric] == pytest.approx(expected, rel=1e-6)
    assert found[0]["semseg"].names == ("red", "green", "blue")
    assert found[0]["semseg"].values.dtype == np.uint8 and found[0]["semseg"].picture.shape == (32, 32, 3)
    assert np.linalg.norm(found[0]["normals"].values, axis=-1) == pytest.approx(1, abs=1e-5)


# mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of digits in five tasks."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(make_recipe(training={**make_recipe()["training"], "epochs": 1}), folder)
    return folder


def test_tasks_that_cannot_be(finished: Path) -> None:
    predictor = mtpeft.load_run(finished, "cpu")
    digit = np.zeros((8, 8), np.uint8)
    with pytest.raises(ConfigError, match="has several tasks: name one of task0, task1"):
        predictor.predict(digit)
    with pytest.raises(UnknownNameError, match=r"unknown task 'tusk1' .* Did you mean 'task1'"):
        predictor.predict(digit, "tusk1")
    with pytest.raises(ConfigError, match="give task or tasks, not both"):
        predictor.predict(digit, "task1", tasks=["task0"])
    several: Any = predictor.predict(digit, tasks=["task1", "task0"])[0]
    alone: Any = predictor.predict(digit, "task0")[0]
    assert torch.allclose(several["task0"].output, alone.output, atol=1e-6)


def test_inputs_that_cannot_be(finished: Path, tmp_path: Path) -> None:
    """Each is named; `each` gives the error in the input's place, and the rest goes on."""
    predictor = mtpeft.load_run(finished, "cpu")
    text, video = tmp_path / "notes.txt", tmp_path / "film.mp4"
    text.write_text("no picture")
    video.write_bytes(b"\0" * 64)
    digit = np.zeros((8, 8), np.uint8)
    bad: list[Any] = [text, video, tmp_path / "gone.png", np.zeros((3, 8, 8), np.uint8), -np.ones((8, 8)), 7]
    expected = [
        "notes.txt",
        "film.mp4: a video",
        "gone.png",
        "input 4 is an array of shape",
        "input 5: pixels from -1",
        "input 6 is a int",
    ]
    found = list(predictor.each([digit, *bad, digit], "task0", batch_size=3))
    assert len(found) == 8 and torch.equal(found[0].output, found[-1].output)  # type: ignore[union-attr]
    for error, words in zip(found[1:-1], expected, strict=True):
        assert isinstance(error, DataError) and words in str(error)
    with pytest.raises(DataError, match=r"notes\.txt"):
        predictor.predict([digit, text], "task0")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        predictor.predict(digit, "task0", batch_size=0)


def test_folders_that_cannot_be(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run folder: it has no config.py; it holds the runs digits"):
        mtpeft.load_run(finished.parent)
    with pytest.raises(ConfigError, match="is no run folder"):
        mtpeft.load_run(tmp_path / "nowhere")
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    with pytest.raises(ConfigError, match="has no best checkpoint"):
        mtpeft.load_run(copy, best=True)
    with pytest.raises(ConfigError, match="device is 'tpu7'"):
        mtpeft.load_run(copy, "tpu7")
    (copy / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"is not complete: it has no results\.json"):
        mtpeft.load_run(copy)


def test_a_run_of_an_earlier_version_is_completed_by_evaluate(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    file = copy / "model/tasks.json"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"tasks\.json is missing: .* mtpeft evaluate .*copy writes it"):
        mtpeft.load_run(copy)
    assert evaluate(copy) == 0 and file.read_bytes() == whole
    file.write_bytes(whole.replace(b"task0", b"task9"))
    with pytest.raises(CheckpointError, match="is damaged"):
        mtpeft.load_run(copy)


def test_the_callers_random_numbers_are_left_alone(finished: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    mtpeft.load_run(finished, "cpu")
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    assert read_recipe(finished)["seed"] == 3
