"""Headless Chromium for tests of the report."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
    "--window-size=1200,1600",
    "--dump-dom",
]
# Runs before everything else and leaves what went wrong in the page; not part of the report itself.
LISTENER = """<script>
const problem = (text) => document.documentElement.setAttribute("data-problem", text);
addEventListener("error", (event) => problem(event.message || "a load failed"), true);
addEventListener("unhandledrejection", (event) => problem(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problem("refused: " + event.violatedDirective));
</script>"""
# Tells the page around it how wide the report became.
MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  const right = [...document.querySelectorAll("svg.main-svg")].map((svg) => svg.getBoundingClientRect().right);
  parent.postMessage([document.documentElement.scrollWidth, right.length, Math.max(...right)].join(" "), "*");
}, 3000));
</script>"""
FRAME = """<!DOCTYPE html><body><iframe src="report.html" style="width:390px;height:3000px;border:0"></iframe><script>
addEventListener("message", (event) => document.body.setAttribute("data-size", event.data));
</script></body>"""


def dump(page: Path, profile: Path, *flags: str) -> str:
    """The DOM after the scripts of `page` have run."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is not on PATH; install the Debian package 'chromium' (`make chromium` does it)")
    command = [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def drawn(dom: str) -> int:
    """Number of charts that plotly has drawn: it adds this class, and the marks of the traces below it."""
    assert re.search(r"data-problem=\"([^\"]*)\"", dom[:2000]) is None, dom[:500]
    assert len(re.findall(r'<svg class="main-svg"', dom)) >= 2 * dom.count('class="plot js-plotly-plot"')
    return dom.count('class="plot js-plotly-plot"')
