"""The page in headless Chromium: every chart is drawn, no script fails, and it fits a phone and the dark mode."""

from __future__ import annotations

import re

import pytest
from browser import FRAME, LISTENER, MEASURE, drawn, dump
from results_factory import make_results

from mtpeft.report.page import render


@pytest.fixture(scope="module")
def page() -> str:
    runs = [make_results("lora", 0), make_results("lora", 1), make_results("lae", 0, drop=2.0)]
    return render([*runs, make_results("ssf", scenario="class_incremental", total=3)])


def test_every_chart_is_drawn_and_follows_the_colour_scheme(tmp_path, page):
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{LISTENER}", 1))
    expected = page.count('class="plot"')
    assert expected > 10
    light = dump(tmp_path / "report.html", tmp_path / "light", "--blink-settings=preferredColorScheme=1")
    dark = dump(tmp_path / "report.html", tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert drawn(light) == drawn(dark) == expected
    ticks = {name: set(re.findall(r'class="[xy]tick".{0,400}?fill: (rgb\([^)]*\))', dom)) for name, dom in
             (("light", light), ("dark", dark))}  # fmt: skip
    assert ticks == {"light": {"rgb(87, 96, 106)"}, "dark": {"rgb(160, 168, 178)"}}, "--muted of style.css"
    for dom in (light, dark):
        assert 'class="heatmaplayer' in dom and 'class="scatterlayer' in dom and 'class="barlayer' in dom
        assert "t-shirt and trouser" in dom


def test_a_broken_chart_is_noticed(tmp_path, page):
    broken = page.replace('data-plot="plot-3">{', 'data-plot="plot-3">{broken', 1)
    (tmp_path / "report.html").write_text(broken.replace("<head>", f"<head>{LISTENER}", 1))
    dom = dump(tmp_path / "report.html", tmp_path / "profile")
    assert "data-problem" in dom[:2000], "the listener of these tests sees script errors"


def test_the_page_fits_a_phone(tmp_path, page):
    (tmp_path / "report.html").write_text(page.replace("<head>", f"<head>{MEASURE}", 1))
    (tmp_path / "phone.html").write_text(FRAME)
    dom = dump(tmp_path / "phone.html", tmp_path / "profile")
    size = re.search(r'data-size="(\d+) (\d+) ([\d.]+)"', dom)
    assert size is not None, dom[-500:]
    assert int(size[1]) <= 390, "no sideways scrolling of the page"
    assert int(size[2]) >= 2 * page.count('class="plot"')
    assert float(size[3]) <= 390, "no chart is wider than the screen"
