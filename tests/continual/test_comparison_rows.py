"""Comparisons of continual recipes: rows by name and by change, Ctrl-C, what is taken from disk, mistakes."""

from __future__ import annotations

import pprint
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_recipe import make_recipe

from mtpeft.cli.main import main
from mtpeft.continual import command
from mtpeft.errors import ConfigError
from mtpeft.evaluation import read
from mtpeft.runs.comparison import comparison_rows, is_joint


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, values: dict[str, Any]) -> str:
    """A recipe file; its path."""
    file.write_text("\n".join(f"{key} = {pprint.pformat(value, sort_dicts=False)}" for key, value in values.items()))
    return str(file)


def small(**changes: Any) -> dict[str, Any]:
    """Two tasks, few steps; named by its file."""
    stream = {**make_recipe()["stream"], "num_tasks": 2, "train_per_class": 4, "test_per_class": 4}
    return {key: value for key, value in make_recipe(stream=stream, **changes).items() if key != "name"}


class Asked(list):
    """Ctrl-C that comes when a run has looked for it `after` times."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def __bool__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_rows_by_name_with_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a folder of its stem; the same command goes on within a row; one summary, one report."""
    rows = [write(folder / "first.py", small()), write(folder / "second.py", small(method={"name": "bitfit"}))]
    recipe = write(folder / "both.py", {"rows": rows, "seed": 5, "common": {"training": {"batch_size": 8}}})
    asked = Asked(20)  # a row looks 14 times: after each of 12 steps, and after each task

    @contextmanager
    def interrupted() -> Iterator[Asked]:
        yield asked

    with monkeypatch.context() as patched:
        patched.setattr(command, "interrupts", interrupted)
        assert main(["continual", recipe]) == 130
    run = folder / "runs/both-seed5"
    assert (run / "first/results.json").is_file() and (run / "second/checkpoints/state.json").is_file()
    assert not (run / "second/results.json").exists() and not (run / "report.html").exists()
    stamp = (run / "first/results.json").stat().st_mtime_ns
    assert main(["continual", recipe, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "resuming at experience" in out and out.count("complete already") == 1
    assert (run / "first/results.json").stat().st_mtime_ns == stamp
    first, second = (read(run / name / "results.json") for name in ("first", "second"))
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["seed"] == second["seed"] == 5 and first["recipe"]["training"]["batch_size"] == 8
    page = (run / "report.html").read_text()
    assert "first" in page and "second" in page
    assert main(["train", recipe, "--out", "straight"]) == 0  # `train` finds the engine; no interruption
    assert read(folder / "straight/second/results.json") == second


def test_rows_by_change(folder: Path) -> None:
    """Changes over the recipe's own keys, and these over a base named by `base`."""
    base = write(folder / "base.py", small())
    rows = {
        "wide": {"method": {"rank": 16}},
        "other": {"method": {"_delete_": True, "name": "bitfit"}, "seed": 4, "training": {"epochs": 3}},
    }
    recipe = {"name": "study", "base": base, "training": {"epochs": 1, "batch_size": 8}, "rows": rows}
    wide, other = comparison_rows(recipe)
    assert (wide.name, other.name) == ("wide", "other") and wide.recipe["name"] == "wide"
    assert wide.recipe["method"] == {**make_recipe()["method"], "rank": 16} and wide.recipe["seed"] == 3
    assert other.recipe["method"] == {"name": "bitfit"} and other.recipe["seed"] == 4
    assert wide.recipe["training"]["epochs"] == 1 and other.recipe["training"]["epochs"] == 3
    assert wide.recipe["training"]["optimizer"] == make_recipe()["training"]["optimizer"]
    assert {row.recipe["training"]["batch_size"] for row in (wide, other)} == {8}
    own = {**small(), "name": "own", "rows": rows, "common": {"seed": 9}}
    assert [row.recipe["seed"] for row in comparison_rows(own)] == [9, 9]
    assert not is_joint(own) and is_joint({**own, "tasks": {}}) and is_joint({"name": "x", "tasks": {}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, r"rows is \[\], expected names of recipes"),
        ({"rows": "fashion_lora"}, "rows is 'fashion_lora', expected names of recipes"),
        ({"rows": {"a": 3}}, r"rows.a must be a mapping"),
        ({"rows": {"a/b": {}}}, r"rows.a/b must be a mapping \(dict\(...\)\) under a plain name"),
        ({"rows": ["fashion_lora"], "training": {}}, "nothing reads the key training"),
        ({"rows": ["fashion_lora", "continual/fashion_lora"]}, "two rows are named 'fashion_lora'"),
        ({"rows": ["fashion_lora"], "reference": "fashion_full"}, "reference 'fashion_full' is not one of rows"),
        ({"rows": ["compare_sharing"]}, "row 'compare_sharing' is a comparison itself"),
        ({"rows": ["fashion_laura"]}, "unknown recipe 'fashion_laura'.*fashion_lora"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        comparison_rows({"name": "wrong", **changes})


def test_mistakes_are_found_before_a_row_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(folder / "mixed.py", {"rows": ["continual/fashion_lora", "joint/scenes_full"]})
    assert main(["continual", recipe]) == 2
    assert "scenes_full has `tasks`: it is a joint one" in capsys.readouterr().err
    recipe = write(folder / "ref.py", {"rows": ["fashion_lora"], "reference": "fashion_lora"})
    assert main(["continual", recipe]) == 2
    assert "reference is for comparisons of joint recipes" in capsys.readouterr().err
    assert main(["continual", write(folder / "new.py", {"rows": ["fashion_lora"]}), "--resume"]) == 2
    assert "no checkpoint to resume from" in capsys.readouterr().err
    assert not (folder / "runs").exists()
