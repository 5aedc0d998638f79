"""Writes the HTML page, by the kind of its runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mtpeft.files import write_atomic
from mtpeft.report.continual import render_continual
from mtpeft.report.groups import Results, kind_of
from mtpeft.report.joint import render_joint


def write_report(
    results_list: Sequence[Results],
    path: str | os.PathLike[str],
    folders: Sequence[str | os.PathLike[str]] | None = None,
) -> Path:
    """Write one page about one run or several side by side; the same results give the same bytes.

    Runs that differ only in the seed are shown as mean ± standard deviation; runs on other tasks get a section of their
    own. `folders`: run folder of each result, where its pictures are; for a single run it is by default the page's own
    folder. Raises `MtpeftError` for invalid results, a run given twice, continual and joint runs mixed,
    damaged pictures, or a path that cannot be written.
    """
    target = Path(path)
    if folders is None and len(results_list) == 1:
        folders = [target.parent]
    write_atomic(target, render(results_list, folders))
    return target


def render(results_list: Sequence[Results], folders: Sequence[str | os.PathLike[str]] | None = None) -> str:
    """The page as text. Raises like `write_report`."""
    places = None if folders is None else [Path(folder) for folder in folders]
    return (render_joint if kind_of(results_list) == "joint" else render_continual)(results_list, places)
