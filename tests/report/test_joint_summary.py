"""The comparison of joint runs in the terminal and as Markdown."""

from __future__ import annotations

import io

import pytest
from joint_factory import make_joint
from results_factory import make_results
from rich.console import Console

from mtpeft.errors import MtpeftError
from mtpeft.report import markdown_table, print_joint_summary, print_summary


def printed(results, width=180) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(results, console)
    return console.file.getvalue()


def test_one_row_per_method_and_the_single_task_values():
    runs = [make_joint("full", seed, -3.0) for seed in (0, 1)] + [make_joint("lora [bold]", method=10)]
    text = printed(runs)
    assert "semseg mIoU ↑ [%]" in text and "depth rmse ↓ [m]" in text and "delta [%]" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 3
    delta = (runs[0]["delta"] + runs[1]["delta"]) / 2
    assert rows[0].startswith("│ full") and f"−{-delta:.2f} ± " in rows[0] and "75,264" in rows[0]
    assert rows[1].startswith("│ lora [bold]") and "1,546" in rows[1] and f"+{runs[2]['delta']:.2f}" in rows[1]
    assert f"{runs[2]['main']['depth']:.4f}" in rows[1]
    assert "single-task training" in rows[2] and "52.00" in rows[2] and "0.2500" in rows[2]
    assert max(map(len, printed(runs, width=80).splitlines())) <= 80


def test_tasks_that_a_run_lacks_are_gaps():
    rows = [
        line for line in printed([make_joint(), make_joint("alone", tasks=("depth",))]).splitlines() if "alone" in line
    ]
    assert rows[0].count("–") == 3


def test_no_reference_no_row():
    text = printed([make_joint(single=False)])
    assert "single-task" not in text and "│" in text
    assert text.splitlines()[-2].rstrip("│ ").endswith("–")


def test_markdown():
    runs = [make_joint("a|b"), make_joint("full", gain=-3.0)]
    lines = markdown_table(runs).splitlines()
    assert len(lines) == 5
    assert all(line.startswith("| ") and line.endswith(" |") and line.count("|") == 9 for line in lines)
    assert lines[1].startswith("| --- | ---: |")
    assert f"| {runs[0]['main']['semseg']:.2f} |" in lines[2]
    assert lines[2].endswith(f"| +{runs[0]['delta']:.2f} |")


def test_mistakes_are_refused():
    with pytest.raises(MtpeftError, match="measure different things"):
        printed([make_joint(), make_results()])
    with pytest.raises(MtpeftError, match="at least one run"):
        print_joint_summary([], Console(file=io.StringIO()))
