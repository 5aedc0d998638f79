"""What is printed at 80 columns is whole: no number or word cut, no line too long, in every layout."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from joint_factory import make_joint
from results_factory import make_results
from rich.console import Console

from mtpeft.manager.memory import Memory
from mtpeft.printing import print_list, print_table, print_text
from mtpeft.report import print_summary
from mtpeft.report.numbers import number

LONG = "segmentation of indoor scenes by a rather long name"


def printed(function: Any, *arguments: Any, width: int = 80, **named: Any) -> str:
    """What `function` prints to a console of this width, checked for what was cut."""
    console = Console(file=io.StringIO(), width=width)
    function(console, *arguments, **named)
    return whole(console.file.getvalue(), width)  # type: ignore[attr-defined]


def whole(text: str, width: int = 80) -> str:
    """The text, without a sign of a cut and without a line that is too long."""
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    return text


def summary(results: Sequence[dict[str, Any]], width: int = 80) -> str:
    """The summary of runs."""
    return printed(lambda console: print_summary(results, console), width=width)


def words(text: str) -> set[str]:
    """Everything between spaces and the lines of tables."""
    return set(re.split(r"[\s│┃┏┡└┗┓┩┘━─┳╇┴]+", text))


def longer(run: dict[str, Any]) -> dict[str, Any]:
    """The run with long names of tasks."""
    text = json.dumps(run)
    for task in run["tasks"]:
        text = text.replace(json.dumps(task["name"]), json.dumps(f"{LONG} {task['name']}"))
    renamed: dict[str, Any] = json.loads(text)
    return renamed


@pytest.mark.parametrize("total", [2, 5, 12, 30])
@pytest.mark.parametrize("width", [80, 100])
def test_every_number_of_a_continual_comparison_is_there(total: int, width: int) -> None:
    runs = [
        longer(make_results(name, seed, total=total, method=method))
        for seed in (0, 1)
        for name, method in (("sequential_full_fine_tuning", 85798656), ("lora_of_every_task", 294912), ("ssf", 7))
    ]
    text = summary(runs, width)
    found = words(text)
    for run in runs:
        values = run["matrix"]["values"]
        shown = values if total <= 24 else [[values[j][j] for j in range(total)], values[-1]]
        assert {number(value, "%") for row in shown for value in row} <= found
        assert f"{run['parameters']['method'] + 1536:,}" in found
    for title in ("average", "accuracy", "forgetting", "BWT", "FWT", "trainable", "weights", "(frozen)"):
        assert title in found
    assert text.count(" ± ") == 3 * 4 + 2  # four measures of each method, the average of each baseline
    if total == 30:
        assert "whole matrix" in " ".join(text.split())


@pytest.mark.parametrize("groups", [1, 2, 7])
def test_every_number_of_a_joint_comparison_is_there(groups: int) -> None:
    runs = [
        make_joint(f"method_of_number_{group}", seed, gain=group, method=10000000 + group)
        for group in range(groups)
        for seed in (0, 1)
    ]
    text = summary(runs)
    found = words(text)
    for group in range(groups):
        mean = sum(run["main"]["depth"] for run in runs[2 * group : 2 * group + 2]) / 2
        assert f"{mean:.4f}" in found and f"{10001536 + group:,}" in found and f"method_of_number_{group}" in found
    assert {"semseg", "mIoU", "trainable", "delta", "single-task", "90.00"} <= found
    assert text.count(" ± ") == groups * 5


def test_a_wide_terminal_gets_one_table() -> None:
    text = summary([make_results("lora", seed) for seed in (0, 1)], 160)
    assert text.count("┏") == 3
    assert len({len(line) for line in text.splitlines()[-6:]}) == 1


def test_many_columns_become_several_tables_and_few_rows_change_places() -> None:
    head = ["method", *(f"column {n}" for n in range(12))]
    rows = [[f"row {m}", *(f"{m}{n},000,000" for n in range(12))] for m in range(9)]
    several = printed(print_table, head, rows)
    assert several.count("┏") > 1 and several.count("row 3") == several.count("┏")
    assert {cell for row in rows for cell in row[1:]} <= words(several)
    turned = printed(print_table, head, rows[:2])
    assert turned.count("┏") == 1 and turned.count("column 7") == 1


def test_a_name_too_long_for_a_table_makes_lists() -> None:
    name = "a_name_" * 11
    text = printed(print_table, ["task", "value", "other"], [[name, "1,234,567", "2.5 ± 0.1"]])
    assert text == f"{name}\n  value: 1,234,567\n  other: 2.5 ± 0.1\n"


def test_lists_wrap_at_spaces_and_begin_below_where_there_is_no_room() -> None:
    long = "word " * 40
    text = printed(print_list, [("ok", "first", long), ("fail", "the second", "short")])
    assert text.splitlines()[0].startswith("  ok    first       word") and text.count("word") == 40
    path = "/a/path/" + "x" * 60
    below = printed(print_list, [("ok", "the name of a check", path)])
    assert below == f"  ok  the name of a check\n      {path}\n"
    assert printed(print_text, long).count("word") == 40


def test_counts_of_many_tasks_with_large_numbers() -> None:
    from mtpeft.manager import counting

    manager = SimpleNamespace(
        tasks=[f"{LONG} {n}" for n in range(40)],
        frozen_tasks=[f"{LONG} 3"],
        methods=[SimpleNamespace(spec=SimpleNamespace(name="lora"), sharing_name="per_task")],
        backbone=SimpleNamespace(),
        num_trainable=lambda: 3_431_947_264,
    )
    counts = counting.Counts(10_659_072, 85_798_656, 85_798_656, 1_234_567, 12_345_678, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "count", lambda manager, task: counts)
        patch.setattr(counting, "backbone_size", lambda manager: 85_798_656)
        memory = Memory(42_636_288, 30_764, 42_667_052, 85_334_104, 123_456_789, 12_345)
        patch.setattr(counting, "measure_memory", lambda manager: dict.fromkeys(manager.tasks, memory))
        patch.setattr(counting, "backbone_bytes", lambda manager: 343_194_624)
        text = whole(counting.render_table(manager, 80))  # type: ignore[arg-type]
        assert "┏" in counting.render_table(manager, 200)  # type: ignore[arg-type]
    assert {"10,659,072", "1,234,567", "12,345,678", f"{counts.total:,}", "3,431,947,264"} <= words(text)
    assert text.count("85,798,656") == 1 + 40 * 2 and text.count("(frozen)") >= 1
    assert {"norm", "bias", "backbone", "buffers", "trained", "percent"} <= words(text)
