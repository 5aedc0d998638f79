"""Clips one task after another: image methods, images then clips, views, unreadable files, resuming, replay, baselines."""

from __future__ import annotations

import io
import random
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from small_recipe import make_recipe
from small_runs import train

from mtpeft.continual.experiment import Experiment
from mtpeft.data.video import build_video_dataset
from mtpeft.data.video.clips import Clips
from mtpeft.data.video.packets import look
from mtpeft.errors import ConfigError, DataError
from mtpeft.evaluation.baselines import frozen_features
from mtpeft.evaluation.results import read
from mtpeft.report.page import render
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.progress import Progress

TRAIN, TEST = 6, 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest set of motion clips."""
    folder = tmp_path_factory.mktemp("motion")
    for split in ("train", "val"):
        build_video_dataset("motion", split, **options(folder))
    return folder


def options(cache: Path) -> dict[str, Any]:
    """What says which clips `motion` makes."""
    return {"cache": str(cache), "train_per_class": TRAIN, "test_per_class": TEST, "length": 8}


def motion(cache: Path, **changes: Any) -> dict[str, Any]:
    """A recipe's key `data`."""
    return {"type": "motion", **options(cache), "frames": 4, "limit": None, "cache_bytes": 10**8, **changes}


def video_recipe(cache: Path, kind: str = "class_incremental", data: Any = None, **changes: Any) -> dict[str, Any]:
    """Four classes in two tasks."""
    tasks = {
        "first": {"data": data or motion(cache), "classes": ["pan_left", "forward"]},
        "second": {"data": data or motion(cache), "classes": ["reverse", "zoom_in"]},
    }
    split = {"type": kind, "data": data or motion(cache), "num_tasks": 6}
    stream = {"type": kind, "tasks": tasks} if kind == "task_incremental" else split
    training = {"epochs": 2, "batch_size": 6, "optimizer": {"type": "AdamW", "lr": 0.003}}
    return make_recipe(stream=stream, training=training, **changes)


def test_an_image_method_learns_classes_of_clips_one_after_another(cache: Path, tmp_path: Path) -> None:
    recipe = video_recipe(cache, baselines=True)
    experiment, results = train(recipe, tmp_path / "run")
    assert results is not None and results == read(tmp_path / "run/results.json")
    assert results["scenario"] == "class_incremental" and len(results["tasks"]) == 6
    assert [t["train_samples"] for t in results["tasks"]] == [2 * TRAIN] * 6
    matrix = np.array(results["matrix"]["values"], dtype=float)
    assert np.isfinite(matrix[np.tril_indices(6)]).all() and matrix[0, 0] > 0
    video = results["input"]["video"]
    assert video["decoder"].startswith("decord") and video["frames"] == 4 and "SegmentSampling" in video["sampling"]
    assert experiment.manager.backbone_unchanged()
    assert all(isinstance(task.train, Clips) for task in experiment.stream)
    # The last entry again, without the engine.
    last: Any = experiment.stream[5].test
    x, y = last.batch(range(len(last)))
    experiment.manager.eval()
    with torch.no_grad():
        right = (experiment.manager(x, experiment.manager.tasks[-1]).argmax(1) == y).float().mean().item()
    assert matrix[5, 5] == pytest.approx(100 * right)
    for baseline in ("linear_probe", "nearest_class_mean"):
        assert len(results["baselines"][baseline]["values"]) == 6


def image_then_video(cache: Path) -> dict[str, Any]:
    head = {"name": "video_linear", "pool": "attention"}
    tasks = {
        "digits": {
            "data": {"type": "Digits"},
            "classes": ["1", "0"],
            "train_per_class": 16,
            "test_per_class": 10,
        },
        "motion": {"data": motion(cache), "classes": ["pan_left", "zoom_in"], "head": head},
    }
    stream = {"type": "task_incremental", "tasks": tasks}
    training = {"epochs": 3, "batch_size": 8, "optimizer": {"type": "AdamW", "lr": 0.003}}
    return make_recipe(stream=stream, training=training, backbone={"name": "vit_mini_patch4_32"})


def test_images_then_clips_and_what_is_forgotten(cache: Path, tmp_path: Path) -> None:
    experiment, results = train(image_then_video(cache), tmp_path / "run")
    assert results is not None
    assert [len(t["classes"]) for t in results["tasks"]] == [2, 2] and results["tasks"][1]["classes"] == [2, 3]
    assert results["matrix"]["samples"] == [[20, 2 * TEST]] * 2
    (digits, _), (kept, _) = results["matrix"]["values"]
    assert digits >= 80
    measures = {m["name"]: m["value"] for m in results["measures"]}
    assert measures["average_forgetting"] == pytest.approx(digits - kept)
    assert experiment.manager.head_specs["motion"]["name"] == "video_linear"
    assert experiment.manager.head_specs["digits"]["name"] == "linear"


def test_the_probabilities_of_views_are_averaged(cache: Path) -> None:
    recipe = video_recipe(cache, "task_incremental", motion(cache, views=2, crops=3))
    experiment = Experiment(recipe)
    model, test = experiment.model.eval(), experiment.stream[1].test
    x, y = test.batch(range(len(test)))
    assert x.shape == (2 * TEST, 6, 3, 4, 32, 32)
    with torch.no_grad():
        output = model(x, torch.ones(len(x), dtype=torch.long))
        views = torch.stack([experiment.manager(x[:, v], "second").softmax(1) for v in range(6)])
    assert torch.allclose(output.exp(), views.mean(0), atol=1e-6)
    assert not torch.allclose(views[0], views[5], atol=1e-4)
    value, count = experiment.strategy.measure(1)
    assert count == len(y) and value == pytest.approx(100 * (views.mean(0).argmax(1) == y).float().mean().item())


def test_frozen_features_of_clips_are_the_mean_over_frames_and_views(cache: Path) -> None:
    experiment = Experiment(video_recipe(cache))
    features = frozen_features(experiment.manager, experiment.device)
    clips = torch.randn(2, 5, 3, 4, 32, 32)
    with torch.no_grad():
        frames = [features(clips[:, v, :, t]) for v in range(5) for t in range(4)]
        assert torch.allclose(features(clips), torch.stack(frames).mean(0), atol=1e-5)
        assert torch.allclose(features(clips[:, 0]), torch.stack(frames[:4]).mean(0), atol=1e-5)


@pytest.mark.parametrize("plugins", [[], [{"type": "ReplayPlugin", "mem_size": 8}]], ids=["plain", "replay"])
def test_a_killed_run_ends_the_same(plugins: list[dict[str, Any]], cache: Path, tmp_path: Path) -> None:
    """Two tasks of four steps; killed in the middle of an epoch of the second, off the checkpoint interval."""
    recipe = video_recipe(cache, "task_incremental", plugins=plugins)
    _, whole = train(recipe, tmp_path / "whole")
    assert whole is not None
    assert train(recipe, tmp_path / "killed", kill_at=7)[1] is None
    assert train(recipe, tmp_path / "killed")[1] == whole
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()


def test_workers_change_nothing_nor_does_a_kill_with_them(cache: Path, tmp_path: Path) -> None:
    recipe = video_recipe(cache, "task_incremental")
    _, alone = train(recipe, tmp_path / "alone")
    recipe["training"]["workers"] = 2
    assert train(recipe, tmp_path / "shared", kill_at=7)[1] is None
    _, shared = train(recipe, tmp_path / "shared")
    assert alone is not None and shared is not None
    assert alone["matrix"] == shared["matrix"] and alone["curves"] == shared["curves"]


def test_unreadable_files_are_told_up_to_a_share(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "copy")
    data = motion(tmp_path / "copy", max_bad_share=0.1)
    victims = [
        record.path
        for record in build_video_dataset("motion", "train", **options(tmp_path / "copy")).records
        if record.name.startswith("pan_left")
    ]
    recipe = video_recipe(cache, "task_incremental", data)
    messages: list[str] = []
    experiment = Experiment(recipe, Progress(message=messages.append))
    Path(victims[0]).write_bytes(b"damaged")
    assert experiment.run(RunFolder(tmp_path / "run", recipe)) is not None
    _, told = messages  # the first one is the device
    assert "task 'first': 1 of 12 training files cannot be read and were replaced, first: pan_left/" in told
    assert '"skipped"' in (tmp_path / "run/log.jsonl").read_text()
    experiment = Experiment(recipe, Progress())
    for victim in victims[:2]:  # opening the set again has repaired the first
        Path(victim).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"motion train, first': 2 of 12 videos cannot be used, first: .*max_bad_share"):
        experiment.run(RunFolder(tmp_path / "again", recipe))


def as_avi(path: Path) -> None:
    """Code a film anew in a kind of file that is left to PyAV; the contents count, not the name."""
    buffer = io.BytesIO()
    with av.open(str(path)) as old, av.open(buffer, "w", format="avi") as new:
        stream: Any = new.add_stream("mjpeg", rate=12)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for frame in old.decode(video=0):
            new.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        new.mux(stream.encode())
    path.write_bytes(buffer.getvalue())


def test_what_read_the_files_is_told_and_recorded_also_after_a_kill(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "copy")
    recipe = video_recipe(cache, "task_incremental", motion(tmp_path / "copy"))
    messages: list[str] = []

    def run(folder: Path, kill_at: int) -> Any:
        steps = iter(range(1, 1000))

        def step() -> None:
            if next(steps) == kill_at:
                raise KeyboardInterrupt

        experiment = Experiment(recipe, Progress(step=step, message=messages.append))
        for part in (experiment.stream[0].train, experiment.stream[0].test):
            assert isinstance(part, Clips)
            as_avi(next(Path(r.path) for r in part.dataset.records if look(r.path).way == "enter"))
        try:
            return experiment.run(RunFolder(folder, recipe))
        except KeyboardInterrupt:
            return None

    whole = run(tmp_path / "whole", 0)
    told = [line for line in messages if "by what read them" in line]
    assert len(told) == 1 and "task 'first': training files" in told[0] and re.search(r"av \S+, \w+ in avi: 1", told[0])
    assert '"readers"' in (tmp_path / "whole/log.jsonl").read_text()
    readers = whole["input"]["video"]["readers"]
    assert sum(readers.values()) == 4 * (TRAIN + TEST)
    assert sum(count for reader, count in readers.items() if "in avi" in reader) == 2
    assert run(tmp_path / "killed", 7) is None
    assert run(tmp_path / "killed", 0)["input"]["video"]["readers"] == readers
    page = render([whole])
    assert all(f"{reader}: {count}" in page for reader, count in readers.items())


def test_memories_cannot_mix_images_and_clips(cache: Path) -> None:
    recipe = {**image_then_video(cache), "plugins": [{"type": "ReplayPlugin", "mem_size": 8}]}
    recipe["stream"]["tasks"]["motion"].pop("head")
    with pytest.raises(ConfigError, match="'ReplayPlugin' cannot mix images and clips"):
        Experiment(recipe)


@pytest.mark.parametrize(
    "plugin",
    [{"type": "EWCPlugin", "ewc_lambda": 1.0}, {"type": "LwFPlugin"}, {"type": "AGEMPlugin", "sample_size": 4}],
)
def test_other_plugins_take_clips(plugin: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    random.seed(0)
    if plugin["type"] == "AGEMPlugin":
        plugin = {**plugin, "patterns_per_experience": 4}
    _, results = train(video_recipe(cache, "task_incremental", plugins=[plugin]), tmp_path / "run")
    assert results is not None and np.isfinite(np.array(results["matrix"]["values"], dtype=float)).all()
