"""`mtpeft plugins` tells every plugin and every reason, from the one list the engine reads."""

from __future__ import annotations

import pytest

from mtpeft.cli.main import main
from mtpeft.continual.allowed import ALLOWED, REFUSED, RESUMED


def test_every_plugin_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    shown = " ".join(printed.split())
    for name, rule in ALLOWED.items():
        dense = "not for dense tasks" if rule.not_dense else "for dense tasks too"
        assert f" {name} {rule.text}; {dense}; a killed run goes on {RESUMED[rule.resumes]}" in shown
    for name, reason in REFUSED.items():
        assert f" {name} {reason}" in shown
