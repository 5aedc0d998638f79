"""The page and the table of a sweep: means, deviations, every run, the best of each method, orders, what failed."""

from __future__ import annotations

import html
import io
import json
import re

import pytest
from browser import FRAME, LISTENER, MEASURE, drawn, dump
from rich.console import Console
from sweep_factory import make_sweep

from mtpeft.errors import CheckpointError
from mtpeft.report.sweep import print_sweep, render_sweep, scatter_chart
from mtpeft.report.sweep_rows import Sweep
from mtpeft.runs.sweep.results import read_sweep, write_sweep


def cells(page: str, caption: str) -> list[list[str]]:
    """The texts of a table's cells, its titles first."""
    body = page.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    return [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows
    ]


def test_means_deviations_and_the_trade_off():
    page = render_sweep(make_sweep())
    rows = cells(page, "settings, test")
    assert rows[0] == ["Method", "Lr", "Runs", "Average accuracy [%]", "Trained weights", "PPT"]
    assert rows[1] == ["● lora", "0.001", "2", "72.00 ± 1.41", "8,192", "0.7197"]  # 71 and 73
    assert rows[4] == ["■ linear_probe", "0.003", "2", "84.00 ± 1.41", "0", "0.8400"]
    best = cells(page, "best setting of each method")
    assert [row[1] for row in best[1:]] == ["0.003", "0.003"]
    assert "flatters" in page or "flatter their settings" in page
    every = cells(page, "every run")
    assert len(every) == 9 and every[1] == ["● lora-lr=0.001", "test", "0", "71.00", "71.00", "71.00"]


def test_chosen_on_validation_data():
    page = render_sweep(make_sweep(select=True))
    assert "The test part chose nothing" in page
    assert [row[-1] for row in cells(page, "settings, validation")[1:]] == ["", "chosen", "", "chosen"]
    assert len(cells(page, "settings, test")) == 3, "the losers were not tested"
    assert cells(page, "best setting of each method")[0][2] == "On validation data"


def test_orders_of_classes():
    rows = cells(render_sweep(make_sweep(orders=True)), "orders of classes")
    assert rows[0] == ["Method", "Lr", "Order 0", "Order 1", "Over orders"]
    assert rows[1] == ["● lora", "0.001", "72.00 ± 1.41", "76.00 ± 1.41", "74.00 ± 2.83"]


def test_a_failed_run_is_named_and_its_setting_has_no_mean():
    page = render_sweep(make_sweep(broken=True))
    assert cells(page, "failed runs")[1] == ["lora-lr=0.001-seed1", "its data are <gone>"]
    assert "<gone>" not in page and cells(page, "settings, test")[1][3] == "–"


def test_the_chart_leaves_out_what_has_no_weights():
    chart = scatter_chart(Sweep.of(make_sweep()))
    assert chart is not None
    figure = json.loads(chart.json)
    assert [trace["name"] for trace in figure["data"]] == ["lora"]
    assert figure["layout"]["xaxis"]["type"] == "log" and figure["data"][0]["y"] == [72.0, 74.0]
    assert "linear_probe-lr=0.001, linear_probe-lr=0.003" in render_sweep(make_sweep())


@pytest.mark.parametrize("changes", [{}, {"select": True}, {"orders": True, "broken": True}])
def test_the_terminal_has_80_columns(changes):
    console = Console(file=io.StringIO(), width=80)
    print_sweep(make_sweep(**changes), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("± 1.41" in line for line in lines) or changes.get("orders")
    assert any("failed: lora-lr=0.001-order0-seed1" in line for line in lines) == bool(changes.get("broken"))


def test_the_file_is_sealed(tmp_path):
    content = make_sweep()
    write_sweep(tmp_path, content)
    assert read_sweep(tmp_path) == content
    file = tmp_path / "sweep.json"
    file.write_bytes(file.read_bytes().replace(b"71.0", b"99.0", 1))
    with pytest.raises(CheckpointError, match=r"sweep.json is damaged: its seal is not that of its content"):
        read_sweep(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no .*sweep.json"):
        read_sweep(tmp_path / "none")


def test_the_page_in_a_browser_and_on_a_phone(tmp_path):
    page = render_sweep(make_sweep(select=True, orders=True))
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{LISTENER}{MEASURE}", 1))
    assert drawn(dump(tmp_path / "report.html", tmp_path / "desk")) == page.count('class="plot"') == 1
    (tmp_path / "phone.html").write_text(FRAME)
    size = re.search(r'data-size="(\d+) (\d+) ([\d.]+)"', dump(tmp_path / "phone.html", tmp_path / "phone"))
    assert size is not None and int(size[1]) <= 390 and float(size[3]) <= 390
