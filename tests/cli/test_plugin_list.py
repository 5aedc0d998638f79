"""`mtpeft plugins` tells every plugin and every reason, from the one list the engine reads."""

from __future__ import annotations

import pytest

from mtpeft.cli.main import main
from mtpeft.continual.allowed import ALLOWED, REFUSED, RESUMED


def test_every_plugin_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    shown = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:]
        for line in shown.splitlines()
        if len(cells := [c.strip() for c in line.split("│")][1:-1]) > 1
    }
    for name, rule in ALLOWED.items():
        assert rows[name][2].split()[0] == RESUMED[rule.resumes].split()[0]
        assert rows[name][1] == ("" if rule.not_dense else "yes")
    for name, reason in REFUSED.items():
        assert reason.startswith(rows[name][0].split()[0])
    assert ALLOWED.keys() | REFUSED.keys() <= rows.keys()
