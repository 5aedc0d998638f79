"""results.json changed at random: what breaks its structure is refused in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from results_factory import make_results

from mtpeft.errors import MtpeftError
from mtpeft.evaluation.results import read, to_json
from mtpeft.testing.damage import damaged_bytes, damaged_json


@pytest.mark.parametrize("seed", range(2))
def test_changed_results_are_one_line_or_results(seed: int, tmp_path: Path) -> None:
    """Results carry no seal, as they are read and written by other programs: what breaks their structure is refused."""
    file, generator = tmp_path / "results.json", random.Random(seed)
    text = to_json(make_results())
    refused = 0
    for _ in range(150):
        if generator.random() < 0.7:
            file.write_text(json.dumps(damaged_json(json.loads(text), generator)))
        else:
            file.write_bytes(damaged_bytes(text.encode(), generator))
        try:
            read(file)
        except MtpeftError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 75
