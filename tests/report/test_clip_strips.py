"""Strips of clips: which are chosen, what is written at the end of a run, and how the page shows them."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch
from browser import FRAME, LISTENER, MEASURE, drawn, dump
from classes_factory import make_strips, with_counts
from elements import Elements
from PIL import Image
from results_factory import make_results

from mtpeft.continual.experiment import Experiment
from mtpeft.continual.strips import choose
from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.report.page import render
from mtpeft.runs.folder import RunFolder


def run_of(name: str = "lora", **changes):
    return {**with_counts(make_results(name, total=2, **changes)), "pictures": "pictures"}


def recipe_of(**changes):
    """Two tasks on videos of noise, four frames each, in a two-block ViT of random weights."""
    return {
        "name": "noise",
        "seed": 1,
        "backbone": {"name": "vit_mini_patch4_32", "pretrained": False, "options": {"depth": 2, "patch_size": 8}},
        "method": {"name": "aim", "num_frames": 4, "bottleneck_dim": 4, "reduction": None},
        "stream": {
            "type": "task_incremental",
            "data": {"type": "motion", "generated": 3, "frames": 4, "views": 2},
            "num_tasks": 2,
            "head": {"name": "video_linear", "pool": "attention", "num_frames": 4},
        },
        "training": {"epochs": 1, "batch_size": 8, "optimizer": {"type": "AdamW", "lr": 0.01}},
        "baselines": False,
        "strips": 3,
        **changes,
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: the experiment, its results and its folder."""
    folder = tmp_path_factory.mktemp("run") / "noise"
    experiment = Experiment(recipe_of())
    return experiment, experiment.run(RunFolder(folder, recipe_of())), folder


def test_a_run_writes_what_its_model_says(finished):
    experiment, results, folder = finished
    tasks = json.loads((folder / "pictures/index.json").read_text())["tasks"]
    assert list(tasks) == ["task0", "task1"] and results["pictures"] == "pictures"
    for position, (name, strips) in enumerate(tasks.items()):
        test = experiment.stream[position].test
        assert 1 <= len(strips) <= 3
        for strip in strips:
            sample = [record.name for record in test.dataset.records].index(strip["sample"])
            x, target = test.batch([sample])
            assert x.shape[:3] == (1, 2, 3), "two views"
            with torch.no_grad():
                chances = experiment.model(x, position).softmax(1)[0]
            assert test.classes[int(target)] == strip["truth"]
            assert test.classes[int(chances.argmax())] == strip["predicted"]
            assert strip["right"] == (int(chances.argmax()) == int(target))
            assert strip["probability"] == pytest.approx(float(chances.max()), abs=1e-4)
            clip = x[:, 1]
            attention = torch.stack(list(experiment.manager.temporal_attention(clip, name).values())).mean(0)[0]
            np.testing.assert_allclose(strip["temporal"], attention.numpy(), atol=1e-4)
            np.testing.assert_allclose(np.sum(strip["temporal"], axis=1), 1, atol=1e-3)
            assert len(strip["weights"]) == 4 and sum(strip["weights"]) == pytest.approx(1, abs=1e-3)
            picture = np.array(Image.open(folder / "pictures" / strip["image"]))
            assert picture.shape == (32, 4 * 34, 4)
            mean, std = (torch.tensor(test.describe()[key]).view(3, 1, 1) for key in ("mean", "std"))
            second = ((clip[0, :, 1] * std + mean) * 255).round().permute(1, 2, 0).numpy()
            np.testing.assert_allclose(picture[:, 35:67, :3], second, atol=1)
            assert (picture[:, 34, 3] == 0).all() and (picture[:, 35:67, 3] == 255).all()


def test_counts_are_those_of_the_accuracy_matrix(finished):
    _, results, _ = finished
    for j, entry in enumerate(results["confusion"]):
        counts = np.array(entry["counts"])
        assert counts.shape == (6, 6) and counts.sum() == 18 and entry["rows"] == list(range(6))
        assert 100 * np.trace(counts) / 18 == pytest.approx(results["matrix"]["values"][-1][j])
    assert results["confusion"][0]["classes"] == ["pan_left", "pan_right", "zoom_in", "zoom_out", "forward", "reverse"]


def test_a_stopped_run_writes_the_same_bytes(finished, tmp_path):
    _, _, folder = finished
    stops = iter([False, False, False, True])  # two steps, the end of the first task, a step of the second
    first = Experiment(recipe_of(checkpoint={"interval": 100}))
    assert first.run(RunFolder(tmp_path / "noise", recipe_of()), lambda: next(stops)) is None
    assert Experiment(recipe_of()).run(RunFolder(tmp_path / "noise", recipe_of())) is not None
    for path in (*sorted(folder.glob("pictures/*")), folder / "results.json"):
        assert (tmp_path / "noise" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


def test_the_key_strips():
    images = {"type": "task_incremental", "data": {"type": "Digits"}, "num_tasks": 5}
    options = {"method": {"name": "lora", "rank": 2}}
    assert Experiment(recipe_of(strips=0)).strips == 0
    assert Experiment(recipe_of(strips=None)).strips == 4
    assert Experiment(recipe_of(strips=None, stream=images, **options)).strips == 0
    with pytest.raises(ConfigError, match="no task of the stream has clips"):
        Experiment(recipe_of(strips=2, stream=images, **options))
    for wrong in (-1, 2.5, True):
        with pytest.raises(ConfigError, match=f"strips is {wrong}, expected a number"):
            Experiment(recipe_of(strips=wrong))


def test_an_ensemble_has_no_probability(tmp_path):
    stream = recipe_of()["stream"] | {"type": "class_incremental"}
    del stream["head"]
    recipe = recipe_of(
        stream=stream,
        sharing="averaged",
        method={"name": "lora", "rank": 2},
        plugins=[{"type": "LAE", "momentum": 0.9}],
    )
    results = Experiment(recipe).run(RunFolder(tmp_path / "lae", recipe))
    tasks = json.loads((tmp_path / "lae/pictures/index.json").read_text())["tasks"]
    strips = [strip for found in tasks.values() for strip in found]
    assert strips and all(s["probability"] is s["temporal"] is s["weights"] is None for s in strips)
    assert [entry["rows"] for entry in results["confusion"]] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert [len(entry["classes"]) for entry in results["confusion"]] == [12, 12], "all classes seen by the end"


def test_first_right_and_first_wrong_of_classes_are_chosen():
    targets = [0, 0, 0, 1, 1, 2, 2, 2]
    predicted = [0, 1, 0, 0, 0, 2, 2, 1]  # right: 0, 2, 5, 6; wrong: 1, 3, 4, 7
    assert choose(targets, predicted, 4) == [0, 1, 3, 5], "two right and two wrong ones, by class"
    assert choose(targets, predicted, 10) == [0, 1, 3, 5, 7], "one of each kind and class"
    assert choose(targets, predicted, 1) == [0]
    assert choose(targets, targets, 4) == [0, 3, 5], "nothing wrong: right ones take the places"
    assert choose([0, 1], [1, 0], 2) == [0, 1], "nothing right"


def test_strips_are_inside_the_page(tmp_path):
    run = run_of()
    make_strips(tmp_path, run)
    page = render([run], [tmp_path])
    parsed = Elements(page)
    images = [attributes for tag, attributes in parsed.found if tag == "img"]
    assert len(images) == 2 * 2
    assert base64.b64decode(images[0]["src"].split(",")[1]) == (tmp_path / "pictures/task0_0.png").read_bytes()
    assert images[0]["alt"] == "4 frames of clip forward/00.mkv, from the first to the last"
    text = re.sub(r"\s+", " ", parsed.text)
    assert "✓ right: forward (probability 0.62)" in text
    assert "✗ wrong: forward, taken for reverse" in text
    told = [a["aria-label"] for _, a in parsed.found if a.get("role") == "img" and "plot" not in a.get("class", "")]
    assert told[:2] == [
        "weights of the frames: 0.10, 0.20, 0.30, 0.40",
        "temporal attention: frame 1 most to frame 1 (0.50); frame 2 most to frame 2 (0.50); "
        "frame 3 most to frame 3 (0.50); frame 4 most to frame 4 (0.50)",
    ]
    assert page.count("<title>frame ") == 4 * 16


def test_what_a_model_does_not_have_is_not_shown(tmp_path):
    run = run_of()
    make_strips(tmp_path, run, shares=False)
    index = tmp_path / "pictures/index.json"
    content = json.loads(index.read_text())
    for strips in content["tasks"].values():
        for strip in strips:
            strip["temporal"] = strip["probability"] = None
    index.write_text(json.dumps(content))
    page = render([run], [tmp_path])
    text = Elements(page).text
    assert page.count("<img ") == 4 and "<title>frame " not in page
    assert "probability" not in text and "weights in the pooled features" not in text and "attends" not in text


def test_several_methods_show_two_clips_of_each_task_folded(tmp_path):
    runs = [run_of("lora"), run_of("lora", seed=1), run_of("ssf")]
    folders = [tmp_path / str(k) for k in range(3)]
    for run, folder in zip(runs, folders, strict=True):
        make_strips(folder, run)
    page = render(runs, folders)
    assert page.count("<img ") == 2 * 2 * 2, "the first seed of each method"
    text = Elements(page).text
    assert "lora, seed 0" in text and "the first one given is shown" in text


def test_missing_strips_are_said(tmp_path):
    assert "has no folder 'pictures'" in Elements(render([run_of()], [tmp_path])).text
    assert "not given to this report" in Elements(render([run_of()])).text
    both = render([run_of(), {k: v for k, v in run_of("ssf").items() if k != "pictures"}])
    assert "wrote no pictures" in Elements(both).text
    assert "Test clips" not in Elements(render([make_results()])).text, "a run on images has no card for clips"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image", "../outside.png", "outside its folder"),
        ("image", "nowhere.png", "names 'nowhere.png', which cannot be read"),
        ("image", "index.json", "is not a PNG file"),
        ("truth", 3, "truth must be a text, got 3"),
        ("weights", [0.5, 0.5], "needs `weights` of 4 frames"),
        ("temporal", [[1.0]], "needs `temporal` of 4 x 4 frames"),
        ("frames", 5, "of 5 frames"),
    ],
)
def test_damaged_strips_are_refused(tmp_path, key, value, message):
    run = run_of()
    make_strips(tmp_path, run)
    index = tmp_path / "pictures/index.json"
    content = json.loads(index.read_text())
    content["tasks"][run["tasks"][1]["name"]][0][key] = value
    index.write_text(json.dumps(content))
    with pytest.raises(MtpeftError, match=message) as caught:
        render([run], [tmp_path])
    assert "\n" not in str(caught.value)


def test_the_page_fits_a_phone(tmp_path):
    """Long clips scroll inside their box."""
    run = run_of()
    make_strips(tmp_path, run, frames=16)
    page = render([run], [tmp_path])
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{LISTENER}{MEASURE}", 1))
    (tmp_path / "phone.html").write_text(FRAME)
    assert drawn(dump(tmp_path / "report.html", tmp_path / "wide")) == page.count('class="plot"')
    dom = dump(tmp_path / "phone.html", tmp_path / "narrow")
    width, _, right = map(float, dom.split('data-size="')[1].split('"')[0].split())
    assert width <= 390 and right <= 390
