"""The page about joint runs: every number is there, deltas are right, pictures are inside, gaps are said."""

from __future__ import annotations

import base64
import html
import json
import statistics

import pytest
from browser import FRAME, LISTENER, MEASURE, drawn, dump
from elements import Elements
from joint_factory import TASKS, make_joint, make_pictures
from results_factory import make_results

from mtpeft.cli.main import main
from mtpeft.errors import MtpeftError
from mtpeft.evaluation import read, write
from mtpeft.report import write_report
from mtpeft.report.groups import Statistic
from mtpeft.report.joint_groups import joint_runs_of, metric_history, relative, task_delta
from mtpeft.report.numbers import count, number, signed
from mtpeft.report.page import render


def text_of(*results, folders=None) -> str:
    return Elements(render(list(results), folders)).text


def card(text: str, start: str, end: str) -> str:
    return text[text.index(start) : text.index(end, text.index(start))]


@pytest.fixture(scope="module")
def runs():
    return [make_joint(name, seed, gain) for name, gain in (("full", 1.0), ("vmt_adapter", 4.0)) for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    places = [tmp_path_factory.mktemp("run") for _ in runs]
    for run, place in zip(runs, places, strict=True):
        make_pictures(place, run)
    return places


@pytest.fixture(scope="module")
def page(runs, folders) -> str:
    return render(runs, folders)


def test_one_run_shows_every_number(tmp_path):
    run = make_joint()
    make_pictures(tmp_path, run)
    text = text_of(run, folders=[tmp_path])
    for task, metrics in run["final"].items():
        kind, metric, unit, higher, single, _ = TASKS[task]
        assert number(metrics[metric], unit) in text
        assert f"{metric} {'↑' if higher else '↓'} [{unit}]" in text
        assert signed(Statistic(relative(metrics[metric], single, run["tasks"][list(TASKS).index(task)])), "%") in text
    for title in ("semseg: pixel_accuracy ↑ [%]", "depth: abs_rel ↓ [%]", "saliency: mIoU ↑ [%]"):
        assert title in card(text, "Every metric", "Validation history")
    for entry in run["history"]:
        assert signed(Statistic(entry["delta"]), "%") in card(text, "Validation history", "Tasks")
    assert f"{count(run['best']['step'])}" in card(text, "Validation history", "Tasks")
    for kind in ("method", "norm_bias", "head", "buffers", "backbone"):
        assert count(run["parameters"][kind]) in card(text, "Trainable weights", "Floating-point operations")
    memory = card(text, "Memory in training", "Floating-point operations")
    assert "5.5 MiB" in memory and "Optimiser (AdamW)" in memory and "backbone 20.5 MiB, bfloat16" in memory
    assert count(run["memory"]["per_task"]["semseg"]["trained"]) in memory and run["memory"]["rule"] in memory
    assert run["parameters"]["rule"] in text and run["flops"]["rule"] in text
    assert "89.0" in card(text, "Floating-point operations", "Pictures"), "61 + 4 x 7 million"
    assert json.dumps({"recipe": run["recipe"], "input": run["input"]}, indent=2, sort_keys=True) in text
    assert run["frozen"]["fingerprint_after"] in text
    assert "100 · s[j]·(m[j] − q[j]) / q[j]" in text and "Maninis" in text


def test_delta_has_the_sign_of_better():
    lower, higher = {"higher_is_better": False}, {"higher_is_better": True}
    assert relative(0.2, 0.25, lower) == pytest.approx(20.0)
    assert relative(55.0, 50.0, higher) == pytest.approx(10.0)
    assert relative(45.0, 50.0, higher) == pytest.approx(-10.0)
    assert relative(45.0, None, higher) is None and relative(None, 50.0, higher) is None
    assert relative(45.0, 0.0, higher) is None


def test_mean_and_deviation_over_seeds(runs, page):
    text = Elements(page).text
    deltas = [run["delta"] for run in runs if run["name"] == "vmt_adapter"]
    assert f"+{statistics.fmean(deltas):.2f} ± {statistics.stdev(deltas):.2f}" in text
    changes = [100 * (0.25 - run["main"]["depth"]) / 0.25 for run in runs if run["name"] == "full"]
    [comparison] = joint_runs_of(runs)
    depth = comparison.tasks[1]
    found = task_delta(comparison.groups[0], depth)
    assert found.mean == pytest.approx(statistics.fmean(changes))
    assert found.std == pytest.approx(statistics.stdev(changes))
    assert signed(found, "%") in card(text, "Against single-task training", "Validation, task by task")


def test_curves_hold_the_numbers(runs, page):
    scripts = Elements(page).scripts
    charts = {name: json.loads(data) for name, data in scripts.items()}
    [comparison] = joint_runs_of(runs)
    steps, means = metric_history(comparison.groups[1], comparison.tasks[1])
    assert steps == list(range(100, 1001, 100))
    traces = charts["plot-3"]["data"]  # 1 is delta against weights, 2 segmentation, 3 depth
    assert traces[0]["y"] == [0.25, 0.25] and traces[0]["line"]["dash"] == "dash"
    assert traces[-1]["y"] == [value.mean for value in means]
    assert traces[-1]["error_y"]["array"] == [value.std for value in means]
    expected = [sum(run["history"][0]["values"]["depth"]["rmse"] for run in runs[3:]) / 3]
    assert traces[-1]["y"][:1] == pytest.approx(expected)


def test_missing_single_task_values_are_said(tmp_path):
    text = text_of(make_joint(single=False), folders=[tmp_path])
    part = card(text, "Against single-task training", "Validation, task by task")
    assert "vmt_adapter has no single-task value for semseg, depth, normals, saliency." in part
    assert "Change [%]" not in part
    partly = make_joint()
    partly["single_task"]["depth"] = None
    partly["delta"] = partly["best"] = None
    for entry in partly["history"]:
        entry["delta"] = None
    part = card(text_of(partly), "Against single-task training", "Validation, task by task")
    assert "vmt_adapter has no single-task value for depth." in part
    assert "Multi-task delta" in part and "–" in part


def test_runs_that_are_the_reference_stand_for_it():
    alone = {**make_joint("single-task"), "delta": 0.0, "best": None}
    alone["single_task"] = dict(alone["main"])
    for entry in alone["history"]:
        entry["delta"] = None
    part = card(text_of(alone, make_joint()), "Methods compared", "Against single-task training")
    assert part.count("ingle-task") == 1, "no second row for the same values"
    assert "Single-task training" in card(text_of(make_joint()), "Methods compared", "Against single-task training")


def test_pictures_are_inside_the_page(tmp_path):
    run = make_joint()
    make_pictures(tmp_path, run, amount=2)
    parsed = Elements(render([run], [tmp_path]))
    images = [attributes for tag, attributes in parsed.found if tag == "img"]
    assert len(images) == 4 * 2 * 2 * 3  # tasks, best and worst, cases, and input, truth, prediction
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    first = (tmp_path / "pictures" / "semseg_worst_0_image.png").read_bytes()
    assert base64.b64decode(images[0]["src"].split(",")[1]) == first
    assert images[2]["alt"] == "prediction of semseg for scene_00000"
    assert "scene_00001 · " in parsed.text and f"{run['main']['depth']:.4f} m" in parsed.text


def test_missing_pictures_are_said(tmp_path):
    assert "no folder 'pictures'" in text_of(make_joint(), folders=[tmp_path])
    assert "not given to this report" in text_of(make_joint())
    assert "wrote no pictures" in text_of({**make_joint(), "pictures": None}, folders=[tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "index.json").unlink(), "does not describe the pictures"),
        (
            lambda folder: (folder / "index.json").write_text('{"tasks": {"depth": {}}}'),
            "'tasks.depth.best' is missing",
        ),
        (lambda folder: (folder / "depth_best_0_truth.png").unlink(), "names 'depth_best_0_truth.png'"),
        (lambda folder: (folder / "depth_best_0_truth.png").write_bytes(b"x"), "is not a PNG file"),
        (
            lambda folder: (folder / "index.json").write_text(
                (folder / "index.json").read_text().replace("depth_best_0_truth", "../depth")
            ),
            "outside its folder",
        ),
    ],
)
def test_damaged_pictures_are_refused(tmp_path, change, message):
    run = make_joint()
    make_pictures(tmp_path, run)
    change(tmp_path / "pictures")
    with pytest.raises(MtpeftError, match=message):
        render([run], [tmp_path])


def test_gradient_conflict_is_a_heat_map_or_a_reason(tmp_path, runs, page):
    charts = [json.loads(data) for data in Elements(page).scripts.values()]
    [full, _] = [chart for chart in charts if chart["data"][0].get("zmin") == -1]
    cosines = [run["gradient_conflict"]["cosine"][0][3] for run in runs if run["name"] == "full"]
    assert full["data"][0]["z"][0][3] == pytest.approx(sum(cosines) / 3)
    assert full["data"][0]["z"][2][2] == 1.0
    assert len(full["layout"]["annotations"]) == 16
    assert "no two tasks share a trained weight" in text_of({**make_joint(), "gradient_conflict": None})
    assert "There is one task only" in text_of(make_joint(tasks=("depth",)))


def test_skipped_labels_are_counted():
    run = make_joint()
    assert "Every label that was used had valid pixels" in text_of(run)
    run["skipped"]["normals"] = 17
    assert "17" in card(text_of(run), "Skipped labels", "Recipes")


def test_runs_on_other_data_or_measured_otherwise_are_not_compared():
    other = make_joint("lora")
    other["recipe"]["data"] = {"name": "nyud_mt"}
    fewer = make_joint("ssf")
    fewer["tasks"][1]["val_samples"] = 3
    found = joint_runs_of([make_joint(), other, fewer, make_joint("alone", tasks=("depth",))])
    assert [[group.label for group in runs.groups] for runs in found] == [["vmt_adapter", "alone"], ["lora"], ["ssf"]]
    assert found[0].title == "Joint training on scenes, 4 tasks"


def test_mixed_kinds_and_a_run_given_twice_are_refused(tmp_path):
    with pytest.raises(MtpeftError, match="of kind 'joint' and run 'lora' of kind 'continual'"):
        write_report([make_joint(), make_results("lora")], tmp_path / "report.html")
    with pytest.raises(MtpeftError, match="with seed 0 was given twice"):
        render([make_joint(), make_joint()])
    assert not (tmp_path / "report.html").exists()


def test_nothing_is_loaded_and_names_cannot_break_the_page(tmp_path):
    evil = "</script><b>&\"'"
    run = make_joint(evil, note=evil)
    make_pictures(tmp_path, run)
    page = render([run], [tmp_path])
    parsed = Elements(page)
    assert evil not in page and evil in parsed.text
    plain = make_joint()
    assert [tag for tag, _ in parsed.found] == [tag for tag, _ in Elements(render([plain], [tmp_path])).found]
    for _, attributes in parsed.found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "default-src 'none'" in html.unescape(page[:1000])


def test_report_command_takes_run_folders(tmp_path, capsys):
    paths = []
    for seed in (0, 1):
        run = make_joint(seed=seed)
        paths.append(tmp_path / f"run{seed}")
        make_pictures(paths[-1], run, amount=1)
        write(paths[-1] / "results.json", run)
    assert main(["report", *map(str, paths)]) == 0
    page = (paths[0] / "report.html").read_text()
    assert capsys.readouterr().out.strip() == str(paths[0] / "report.html")
    assert page.count('<img src="data:image/png') == 4 * 2 * 3
    assert page == render([read(path / "results.json") for path in paths], paths), "the same results, the same bytes"


def test_charts_are_drawn_and_fit_a_phone(tmp_path, page):
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{LISTENER}{MEASURE}", 1))
    (tmp_path / "phone.html").write_text(FRAME)
    expected = page.count('class="plot"')
    assert expected == 1 + 4 + 4 + 1 + 2 + 1  # delta and weights, metrics, losses, weights, cosines, delta
    assert drawn(dump(tmp_path / "report.html", tmp_path / "wide")) == expected
    dom = dump(tmp_path / "phone.html", tmp_path / "narrow")
    width, charts, right = map(float, dom.split('data-size="')[1].split('"')[0].split())
    assert width <= 390 and right <= 390 and charts >= 2 * expected
