"""README: from a folder of images to predictions in five commands, each run as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from photos import COLOURS, photos

from mtpeft.cli.main import main

README = Path(__file__).parents[2] / "README.md"


def commands(heading: str) -> list[list[str]]:
    """The `mtpeft` commands of the first block of code below a heading."""
    text = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].splitlines() if line]


def test_from_a_folder_of_images_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = commands("From a folder of images to predictions")
    assert len(found) == 5 and {words[0] for words in found} == {"mtpeft"}
    monkeypatch.chdir(tmp_path)
    photos(Path("photos"))
    for words in found:
        assert main(words[1:]) == 0, words
    out = capsys.readouterr().out
    assert "nothing wrong" in out and "task0: accuracy" in out and "photos/test/moss/0.png" in out
    written = json.loads(Path("predictions/predictions.json").read_text())
    assert written["unreadable"] == [] and len(written["predictions"]) == 6
    best = [one["classes"][0]["class"] for one in written["predictions"]]
    right = sum(f"/{name}/" in one["input"] for name, one in zip(best, written["predictions"], strict=True))
    results = json.loads(Path("runs/photos/results.json").read_text())
    assert 100 * right / 6 == pytest.approx(results["matrix"]["values"][0][0]) and set(best) <= set(COLOURS)
