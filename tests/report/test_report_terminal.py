"""The summary in the terminal shows the matrix and one row per method and baseline."""

from __future__ import annotations

import io

from results_factory import make_results
from rich.console import Console

from mtpeft.report import print_summary
from mtpeft.report.numbers import number


def printed(results, width=160) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(results, console)
    return console.file.getvalue()


def test_matrix_and_comparison():
    runs = [make_results("lora", seed) for seed in (0, 1)] + [make_results("ssf [bold]", drop=0.0, method=10)]
    text = printed(runs)
    for run in runs:
        for row in run["matrix"]["values"]:
            for value in row:
                assert number(value, "%") in text
    rows = [line for line in text.splitlines() if "│" in line]
    mean = sum(run["measures"][0]["value"] for run in runs[:2]) / 2
    [lora] = [line for line in rows if line.startswith("│ lora")]
    assert f"{mean:.2f} ± " in lora and "0, 1" in lora and "75,264" in lora
    [ssf] = [line for line in rows if line.startswith("│ ssf [bold]")]
    assert "1,546" in ssf and "0.00" in ssf
    assert any("Linear probe (frozen)" in line and "93.92" in line for line in rows)
    assert any("Nearest class mean (frozen)" in line and "89.94" in line for line in rows)


def test_fits_a_narrow_terminal():
    assert max(map(len, printed([make_results()], width=80).splitlines())) <= 80
