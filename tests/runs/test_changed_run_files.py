"""A run's files: what was changed at random is one line, and never taken for what was written."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mtpeft.errors import CheckpointError, MtpeftError
from mtpeft.runs.folder import RunFolder, read_recipe
from mtpeft.runs.state import State
from mtpeft.testing.damage import damaged_bytes, damaged_json

STATE: dict[str, Any] = {
    "step": 3,
    "model": {"w": torch.arange(6.0)},
    "seen": {1, 2},
    "order": (1, "a", None, 0.5),
    "rng": [1, 2],
}


@pytest.mark.parametrize("seed", range(3))
def test_changed_states_are_refused_or_read_as_they_were(seed: int, tmp_path: Path) -> None:
    """Bytes behind the journal's end do not count, so that a change there may leave the state as it was."""
    State(tmp_path).write(STATE)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    generator = random.Random(seed)
    refused = 0
    for _ in range(100):
        for file, data in files.items():
            file.write_bytes(data)
        file = generator.choice(sorted(files))
        if file.suffix == ".json" and generator.random() < 0.5:
            file.write_text(json.dumps(damaged_json(json.loads(files[file]), generator), sort_keys=True))
        else:
            file.write_bytes(damaged_bytes(files[file], generator))
        try:
            found = State(tmp_path).read()
        except CheckpointError as error:
            assert "start again with --fresh" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert found is not None and torch.equal(found["model"].pop("w"), STATE["model"]["w"])
            assert found == {**STATE, "model": {}}
    assert refused > 50


@pytest.mark.parametrize("seed", range(2))
def test_changed_recipes_of_a_run_are_refused(seed: int, tmp_path: Path) -> None:
    """A run goes on with its own recipe alone, byte for byte; reading a damaged one is one line."""
    recipe = {"name": "small", "method": {"name": "lora", "rank": 2}, "tasks": ["a", "b"]}
    RunFolder(tmp_path / "run", recipe).open()
    config, generator = tmp_path / "run" / "config.py", random.Random(seed)
    data = config.read_bytes()
    for _ in range(100):
        config.write_bytes(damaged_bytes(data, generator))
        with pytest.raises(MtpeftError, match=r"its config\.py differs") as error:
            RunFolder(tmp_path / "run", recipe)
        assert "\n" not in str(error.value)
        try:
            assert isinstance(read_recipe(tmp_path / "run"), dict)
        except MtpeftError as damaged:
            assert "\n" not in str(damaged)


@pytest.mark.parametrize(
    "text", ["", "recipe = 3", "recipe = [" * 500, "x = {[]: 1}", "import os", "\0", "recipe = {'a': 1"]
)
def test_what_is_no_recipe_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(MtpeftError, match="is damaged; it should hold the resolved recipe"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None, [], {}, "x", 10**30, -1, [[]]], ids=str)
@pytest.mark.parametrize("key", ["format", "journal", "length", "sha256"])
def test_every_field_of_a_state_of_another_type_is_one_line(key: str, value: Any, tmp_path: Path) -> None:
    State(tmp_path).write(STATE)
    index = tmp_path / "state.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), key: value}))
    with pytest.raises(CheckpointError, match="start again with --fresh"):
        State(tmp_path).read()
