"""`mtpeft predict`: tables, files, unreadable inputs, mistakes, and folders that are not trusted."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from photos import photos
from PIL import Image

from mtpeft.cli.main import main
from mtpeft.runs.folder import RunFolder, read_recipe
from mtpeft.runs.input_files import input_files, names_below
from mtpeft.runs.loading import nothing_unpickled

SMALL = [
    "backbone.pretrained=False", 'backbone.options={"depth": 2, "patch_size": 8}', "training.epochs=1", "baselines=False",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and run/, a finished run on them."""
    root = tmp_path_factory.mktemp("predict")
    photos(root / "photos")
    command = ["train", "folder", "--out", str(root / "run"), "--set", f"stream.data.root={root / 'photos'}"]
    for text in SMALL:
        command += ["--set", text]
    assert main(command) == 0
    return root


def predict(place: Path, *more: object) -> int:
    return main(["predict", str(place / "run"), *map(str, more)])


def test_a_table_and_csv_and_json_say_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(place, place / "photos/test", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["input", "task", "class", "probability", "class_2", "probability_2"]
    names = [str(Path(row["input"]).relative_to(place / "photos/test")) for row in rows]
    assert names == ["moss/0.png", "moss/1.jpg", "moss/2.png", "rust/0.png", "rust/1.jpg", "rust/2.png"]
    assert all(float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=2e-6) for row in rows)
    assert predict(place, place / "photos/test", "--format", "json", "--task", "task0", "--top", 1) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["classes"][0]["class"] for one in found] == [row["class"] for row in rows]
    assert all(len(one["classes"]) == 1 and one["task"] == "task0" for one in found)
    assert predict(place, place / "photos/test/rust/0.png") == 0
    table = capsys.readouterr().out
    assert "probability" in table and rows[3]["class"] in table
    assert f"{100 * float(rows[3]['probability']):.1f}" in table and "task0" not in table


def test_unreadable_inputs_are_named_and_the_rest_goes_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged, of another sort, or not there: each is named, and the exit code is 1."""
    good = tmp_path / "in/good.png"
    good.parent.mkdir()
    Image.new("RGB", (40, 40), (180, 80, 30)).save(good)
    (tmp_path / "in/cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "in/list.txt").write_text("not taken from a folder")
    (tmp_path / "film.mp4").write_bytes(b"\0" * 100)
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / name for name in ("notes.txt", "film.mp4", "gone.jpg", "empty")]
    out = tmp_path / "out"
    assert predict(place, *bad, tmp_path / "in", "--out", out, "--format", "json") == 1
    found = json.loads((out / "predictions.json").read_text())
    assert [one["input"] for one in found["predictions"]] == [str(good)]
    names = [Path(one["input"]).name for one in found["unreadable"]]
    assert names == ["empty", "notes.txt", "film.mp4", "gone.jpg", "cut.png"]
    told = capsys.readouterr().err
    assert "mtpeft: 5 of 6 inputs cannot be read:" in told and "film.mp4: a video, and the model takes images" in told
    assert all(one["reason"] in told for one in found["unreadable"])


def test_mistakes_are_one_line_before_any_work(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = place / "photos/test/moss/0.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "half").mkdir()
    shutil.copy(place / "run/config.py", tmp_path / "half")
    for words, expected in (
        ((file, "--task", "tusk0"), "unknown task 'tusk0'"),
        ((file, "--top", 0), "--top is 0"),
        ((file, "--batch-size", 0), "--batch-size is 0"),
        ((file, "--best"), "has no best checkpoint"),
        ((file, "--device", "tpu7"), "device is 'tpu7'"),
        ((file, "--out", tmp_path / "taken/out"), "cannot write into"),
        ((tmp_path / "empty",), "no file in it that the model takes"),
    ):
        capsys.readouterr()
        assert predict(place, *words) == 2
        told = capsys.readouterr()
        assert expected in told.err and told.err.count("\n") == 1 and not told.out
    for folder, expected in (
        (tmp_path / "half", "has no results.json"),
        (tmp_path, "is no run folder: it has no config"),
    ):
        assert main(["predict", str(folder), str(file)]) == 2
        assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "half", "taken"]


def test_the_same_names_in_several_folders_stay_apart(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a/x.png", "a/x.jpg", "b/x.png", "b/f10.png", "b/f2.png", ".hidden/y.png")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    given = [tmp_path / "b", tmp_path / "a/x.png", tmp_path / "empty", tmp_path, tmp_path / "b/x.png"]
    found, errors = input_files(given, (".png", ".jpg"))
    assert [str(error).partition(":")[0] for error in errors] == [str(tmp_path / "empty")]
    assert [str(place) for place in names_below(found)] == ["b/f2.png", "b/f10.png", "b/x.png", "a/x.png", "a/x.jpg"]


def imported(place: Path, tmp_path: Path) -> Path:
    """A copy of the run whose recipe imports a file that tells when it is executed."""
    run = Path(shutil.copytree(place / "run", tmp_path / "stranger"))
    code = tmp_path / "theirs.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).write_text('x')\n")
    folder = RunFolder(run, read_recipe(run))
    folder.recipe = {**folder.recipe, "imports": [str(code)]}
    folder._write()
    return run


def test_a_strangers_run_executes_nothing(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = imported(place, tmp_path), str(place / "photos/test/moss/0.png")
    for words in (["predict", str(run), file], ["evaluate", str(run)]):
        assert main(words) == 2
        assert (
            "its recipe imports" in (told := capsys.readouterr().err)
            and "theirs.py" in told
            and "--trust-imports" in told
        )
        assert told.count("\n") == 1 and not (tmp_path / "executed").exists()
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert not (tmp_path / "executed").exists()
    assert main(["predict", str(run), file, "--trust-imports"]) == 0
    assert (tmp_path / "executed").exists()


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_a_pickle_that_a_recipe_names_is_not_executed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by timm's option, and not where a library asks torch for more than tensors."""
    import torch

    run = Path(shutil.copytree(place / "run", tmp_path / "stranger"))
    torch.save({"state_dict": Payload(tmp_path / "executed")}, tmp_path / "theirs.pth")
    folder = RunFolder(run, read_recipe(run))
    options = {**folder.recipe["backbone"]["options"], "checkpoint_path": str(tmp_path / "theirs.pth")}
    folder.recipe = {**folder.recipe, "backbone": {**folder.recipe["backbone"], "options": options}}
    folder._write()
    assert main(["predict", str(run), str(place / "photos/test/moss/0.png")]) == 2
    assert "cannot be created" in (told := capsys.readouterr().err) and told.count("\n") == 1
    with nothing_unpickled(), pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(tmp_path / "theirs.pth", weights_only=False)
    assert not (tmp_path / "executed").exists()
