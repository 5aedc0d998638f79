"""`mtpeft export` of a joint run: a dense task as a program, with the run's figures; what timm cannot hold is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from squares import make_recipe, train

from mtpeft.cli.main import main
from mtpeft.runs.loading import read_run


def test_a_dense_task_with_a_stream_of_its_own_leaves_as_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    recipe = make_recipe(method="vmt_adapter")
    del recipe["sharing"]
    train(recipe, run)
    assert main(["export", str(run), str(out), "--to", "torch", "--task", "depth"]) == 0
    found = read_run(run, "cpu")
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = found.manager(pictures, "depth")
        torch.testing.assert_close(torch.export.load(out / "model.pt2").module()(pictures), expected)
    assert json.loads((out / "export.json").read_text())["tasks"]["depth"]["outputs"] is None
    card = (out / "README.md").read_text()
    assert "| data | squares | unknown |" in card and "- depth: rmse " in card
    capsys.readouterr()
    assert main(["export", str(run), str(tmp_path / "timm"), "--to", "timm", "--task", "depth"]) == 2
    assert "method 'vmt_adapter' does not fold" in capsys.readouterr().err
    assert not (tmp_path / "timm").exists()
