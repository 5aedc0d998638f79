"""The recipe's key `published`, as both engines read it."""

from __future__ import annotations

from typing import Any

import pytest

from mtpeft.errors import ConfigError
from mtpeft.runs.published import check_published

NAMES = ("average_accuracy", "delta", "semseg")


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ("x", r"recipe r: published is 'x', expected dict\(LABEL="),
        ({"A": 3}, "published.A must be a mapping"),
        ({"A": {"values": {"delta": 1.0}}}, "published.A.source is missing"),
        ({"A": {"source": "", "values": {"delta": 1.0}}}, "published.A.source is ''"),
        ({"A": {"source": "s"}}, "published.A.values is missing"),
        ({"A": {"source": "s", "values": {}}}, "values is empty"),
        (
            {"A": {"source": "s", "values": {"semsegg": 1.0}}},
            "semsegg is no measure and no task of the run. Did you mean",
        ),
        ({"A": {"source": "s", "values": {"delta": "1"}}}, "values.delta is '1'"),
        ({"A": {"source": "s", "values": {"delta": 1.0}, "note": ""}}, "nothing reads the key published.A.note"),
    ],
)
def test_mistakes_are_one_line(published: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_published(published, NAMES, "r")
    assert "\n" not in str(caught.value)


def test_what_is_right() -> None:
    check_published(None, NAMES, "r")
    check_published({"A": {"source": "s", "values": {"delta": 1, "semseg": 50.5}}}, NAMES, "r")
