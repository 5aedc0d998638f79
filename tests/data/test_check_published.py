"""`mtpeft check-data` on published layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees

from mtpeft.cli.main import main


def test_check_data_reads_the_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All tasks and domains with data of their own are checked; a damaged image is named."""
    trees.vtab_tree(tmp_path / "vtab", "svhn")
    root = ["--set", f"stream.data.root={tmp_path / 'vtab'}"]
    one = ["check-data", "vtab_task", *root, "--set", "stream.data.task=svhn", "--set", "stream.data.select=False"]
    assert main(one) == 0
    assert "VTAB train: 10 images of 10 classes" in capsys.readouterr().out
    only = ["--set", "stream.tasks={'svhn': {'data': {'task': 'svhn'}}}"]
    bad = tmp_path / "vtab/svhn/images/test/000012.jpg"
    bad.write_bytes(b"no image")
    assert main(["check-data", "vtab", *root, *only]) == 2
    assert str(bad) in capsys.readouterr().err
    trees.domainnet_tree(tmp_path / "d")
    domains = ["--set", "stream.domains={'real': {'domains': 'real'}, 'sketch': {'domains': 'sketch'}}"]
    assert main(["check-data", "domainnet_domains", "--set", f"stream.data.root={tmp_path / 'd'}", *domains]) == 0
    assert capsys.readouterr().out.count("DomainNet train") == 2
