"""`mtpeft check-data`, through the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtpeft.cli.main import main
from mtpeft.data.dense import TaskInfo, nyud, pascal
from mtpeft.data.dense.registry import DENSE_DATASETS
from mtpeft.data.dense.scenes.dataset import SCENES_TASKS
from mtpeft.dense.kinds import KINDS, build_kind
from mtpeft.heads import HEADS
from mtpeft.runs.paths import tasks_folder
from mtpeft.runs.task_files import load_task, task_names

SIZE = (6, 8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images and a validation image of NYUD_MT: classes 0 to 2, depth 1 to 3 m."""
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (tmp_path / folder).mkdir()
    for split, names in (("train", ["a", "b"]), ("val", ["c"])):
        (tmp_path / f"gt_sets/{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.png")
            labels = np.resize(np.arange(4), SIZE).astype(np.uint8)
            Image.fromarray(labels).save(tmp_path / f"segmentation/{name}.png")
            np.save(tmp_path / f"depth/{name}.npy", np.resize([1.0, 3.0], SIZE).astype(np.float32))
            np.save(tmp_path / f"normals/{name}.npy", np.broadcast_to(np.float32([0, 0, 1]), (*SIZE, 3)))
            np.save(tmp_path / f"edge/{name}.npy", np.zeros(SIZE))
    return tmp_path


def check(task: str, root: Path, *more: str) -> int:
    return main(["check-data", task, "--set", f"data.root={root}", *more])


def row(output: str, name: str) -> list[str]:
    """The numbers of a row of the first table."""
    line = next(line for line in output.splitlines() if line.strip(" │").startswith(name))
    return [cell.strip() for cell in line.strip(" │").split("│")[1:]]


def test_a_histogram_and_the_absent_classes_are_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("nyud_mt/semseg", root) == 0
    output = capsys.readouterr().out
    assert "nyud_mt/semseg, train: 2 images, 2 labels, 0 label files missing" in output
    assert row(output, "0 wall") == row(output, "1 floor") == ["24", "33.33 %"]
    assert row(output, "3 bed") == ["0", "0.00 %"]
    assert row(output, "ignored or invalid")[0] == "24"
    absent = re.search(r"absent classes: (.*)", output)
    assert absent and absent[1].startswith("3 bed, 4 chair") and "2 cabinet" not in absent[1]
    assert "nothing wrong" in output
    assert "…" not in output
    assert max(len(line) for line in output.splitlines() if str(root) not in line) <= 80  # paths are left whole


def test_values_out_of_range_are_named_with_their_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("b", 90), ("c", 41)):
        Image.fromarray(np.full(SIZE, value, dtype=np.uint8)).save(root / f"segmentation/{name}.png")
    assert check("nyud_mt/semseg", root) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("reading ")]
    assert len(errors) == 1
    assert re.search(r"segmentation/b\.png.* 89 .*and 1 more above", printed.err)
    assert re.search(r"segmentation/c\.png.* 40 ", printed.out)
    assert row(printed.out, "0 wall")[0] == "12"  # the good label still counts


def test_missing_files_are_counted_and_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "depth/b.npy").unlink()
    assert check("nyud_mt/depth", root) == 2
    printed = capsys.readouterr()
    assert "nyud_mt/depth, train: 2 images, 1 labels, 1 label files missing" in printed.out
    assert re.search(r"1 of 2 label files of the train split are missing, first .*depth/b\.npy", printed.err)
    assert check("nyud_mt/depth", root, "--set", "data.missing=skip") == 0


def test_depth_in_another_unit_is_warned_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(root / "depth/a.npy", np.full(SIZE, 2500, dtype=np.float32))
    assert check("nyud_mt/depth", root) == 0
    output = capsys.readouterr().out
    assert re.search(r"warnings: 1\n.*depth/a\.npy.*2500.*millimetres", output)
    assert row(output, "from 100 m")[0] == "48" and row(output, "1 to 2 m")[0] == row(output, "3 to 5 m")[0] == "24"


def test_wrong_sizes_and_unreadable_files_are_errors(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(root / "normals/a.npy", np.broadcast_to(np.float32([0, 0, 1]), (6, 7, 3)))
    (root / "normals/c.npy").write_bytes(b"no array")
    assert check("nyud_mt/normals", root) == 2
    printed = capsys.readouterr()
    assert re.search(r"images/a\.png: label 'normals' is 6 x 7 pixels, its image 6 x 8", printed.err)
    assert re.search(r"normals/c\.npy: the label 'normals' cannot be read", printed.out)


def test_labels_without_a_valid_pixel_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(root / "depth/c.npy", np.zeros(SIZE, dtype=np.float32))
    assert check("nyud_mt/depth", root) == 0
    assert re.search(r"labels without a valid pixel: 1\n.*depth/c\.npy", capsys.readouterr().out)


def test_rendered_scenes_pass(scenes_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"data.cache={scenes_cache}", "data.train_size=12", "data.val_size=10", "data.size=32", "data.seed=1"]
    for label in ("parts", "normals", "edges", "distance"):
        assert main(["check-data", f"scenes/{label}", *(x for option in options for x in ("--set", option))]) == 0
        assert "12 images, 12 labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nyud_mt/depht"], r"unknown task 'nyud_mt/depht'\. Did you mean 'nyud_mt/depth'"),
        (["nyud_mt/depth", "--set", "data.root=/nowhere"], r"/nowhere/gt_sets/train\.txt is missing"),
        (["nyud_mt/depth", "--set", "data.rot=/x"], r"no option 'rot'\. Did you mean 'root'"),
        (["nyud_mt/depth", "--set", "label=edge"], r"unknown task 'edge' .*Did you mean 'edges'"),
        (["nyud_mt/depth", "--set", "kind=dept"], r"'dept'.*'depth'"),
        (["nyud_mt/depth", "--set", "knd=depth"], r"nothing reads the key task\.knd\. Did you mean 'kind'"),
    ],
)
def test_mistakes_end_with_code_2(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if any("data.ro" in argument for argument in arguments) else ["--set", f"data.root={root}"]
    assert main(["check-data", *arguments, *place]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_task_file_of_the_users_own(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f'task = dict(data=dict(name="nyud_mt", root="{root}"), label="edges", kind="edges")\n')
    assert main(["check-data", str(file)]) == 0
    assert row(capsys.readouterr().out, "0")[0] == "96"
    file.write_text("tasks = 3\n")
    assert main(["check-data", str(file)]) == 2
    assert "it must define task = dict(" in capsys.readouterr().err


@pytest.mark.parametrize("name", task_names())
def test_every_task_file_fits_what_is_registered(name: str) -> None:
    task = load_task(name)
    assert f"{task.dataset}/{task.label}" == name and task.dataset in DENSE_DATASETS
    assert task.metric in KINDS.get(task.kind).metrics
    source = (tasks_folder() / f"{name}.py").read_text()
    assert ast.get_docstring(ast.parse(source))
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    assert namespace["task"]["head"]["name"] in HEADS


@pytest.mark.parametrize(
    ("dataset", "infos"),
    [
        ("nyud_mt", {label: files.info for label, files in nyud.LABELS.items()}),
        ("pascal_mt", {label: files.info for label, files in pascal.LABELS.items()}),
        ("scenes", SCENES_TASKS),
    ],
)
def test_every_label_has_a_task_file_of_its_kind(dataset: str, infos: dict[str, TaskInfo]) -> None:
    assert {name for name in task_names() if name.startswith(f"{dataset}/")} == {f"{dataset}/{key}" for key in infos}
    for label, info in infos.items():
        task = load_task(f"{dataset}/{label}")
        assert task.kind == info.kind and info.build_kind(task.kind, task.options, task.metric).metric == task.metric


def test_histograms_count_each_valid_pixel_once() -> None:
    normals = np.zeros((2, 3, 3), dtype=np.float32)
    normals[0, 0], normals[0, 1], normals[1, 2] = [0.8, 0.6, 0], [-0.8, 0.6, 0], [0, 0.6, 0.8]
    assert build_kind("normals").histogram(normals, 6).tolist() == [1, 1, 0, 0, 1, 0]
    depth = np.array([[0.0, np.nan, 0.2, 1.0, 2.9, 500.0]], dtype=np.float32)
    rows = build_kind("depth").histogram_rows()
    counts = build_kind("depth").histogram(depth, len(rows))
    assert dict(zip(rows, counts, strict=True))["2 to 3 m"] == 1 and counts.sum() == 4
    distance = np.array([[-1, 0, 0.5, 1]], dtype=np.float32)
    assert build_kind("distance").histogram(distance, 6).tolist() == [1, 0, 1, 0, 0, 1]
    semseg = build_kind("semseg", classes=3)
    assert semseg.histogram(np.array([[0, 2, 255]], dtype=np.uint8), 4).tolist() == [1, 0, 1, 0]
    assert semseg.histogram_rows() == ("0 0", "1 1", "2 2")
    assert semseg.histogram_rows(("wall", "floor", "bed"))[2] == "2 bed"


def test_types_of_files_and_constant_ones_are_reported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 2**16, SIZE, dtype=np.uint16)).save(root / "images/a.png")
    Image.fromarray(rng.integers(0, 256, (*SIZE, 4), dtype=np.uint8)).save(root / "images/b.png")
    mask = Image.fromarray(np.resize(np.arange(4), SIZE).astype(np.uint8))
    mask.putpalette([255 - value for value in range(256) for _ in range(3)])
    mask.save(root / "segmentation/a.png")
    Image.fromarray(np.full(SIZE, 2, dtype=np.uint8)).save(root / "segmentation/b.png")
    assert check("nyud_mt/semseg", root) == 0
    output = capsys.readouterr().out
    for line in ("images PNG I;16: 1", "images PNG RGBA, transparent: 1", "labels PNG P: 1", "labels PNG L: 1"):
        assert line in output
    assert re.search(r"labels of one value: 1\n.*segmentation/b\.png: 1\n", output)
    assert re.search(r"images of one colour: 1\n.*images/c\.png\n", output)  # of the validation part


@pytest.fixture
def stream_file(tmp_path: Path) -> Path:
    """A recipe of a stream of an image folder: two classes of two images in each part."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for index in range(2):
                pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{index}.png")
    file = tmp_path / "mine.py"
    data = f'dict(type="ImageFolder", root="{tmp_path / "data"}")'
    file.write_text(f'stream = dict(type="task_incremental", data={data}, num_tasks=2)\n')
    return file


def test_images_of_a_stream(stream_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stream_file.parent / "data"
    Image.fromarray(np.full((9, 9, 3), (9, 99, 200), dtype=np.uint8)).save(folder / "train/a/0.png")
    Image.fromarray(np.eye(9, dtype=np.float32)).save(folder / "test/b/2.tiff")
    assert main(["check-data", str(stream_file)]) == 0
    output = capsys.readouterr().out
    assert "ImageFolder train: 4 images of 2 classes\nfiles: images PNG RGB: 4\nimages of a class: 2 (a) to 2" in output
    assert "files: images PNG RGB: 4; images TIFF F: 1" in output and "nothing wrong" in output
    assert re.search(r"images of one colour: 1\n.*train/a/0\.png\n", output)
    damaged = folder / "test/a/1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert main(["check-data", str(stream_file)]) == 2
    printed = capsys.readouterr()
    assert re.search(r"recipe mine: .*test/a/1\.png: the image cannot be read", printed.err)
    assert len([line for line in printed.err.splitlines() if not line.startswith("reading ")]) == 1


def test_streams_without_images_say_where_to_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    for stream, words in (
        ('dict(type="dense_incremental", data=dict(name="scenes"))', "task by task: mtpeft check-data TASK"),
        ('dict(type="task_incremental", data=dict(type="motion"))', "no data set of images"),
    ):
        file.write_text(f"stream = {stream}\n")
        assert main(["check-data", str(file)]) == 2
        assert words in capsys.readouterr().err
