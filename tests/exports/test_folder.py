"""An export is there whole or not at all, and takes the place of an earlier export only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.exports.folder import EXPORT, new_folder


def write(path: Path, text: str, force: bool = False) -> None:
    with new_folder(path, force) as folder:
        (folder / EXPORT).write_text(text)


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "below" / "out"
    os.umask(0o022)
    with new_folder(target) as folder:
        (folder / EXPORT).write_text("{}")
        os.chmod(folder / EXPORT, 0o600)
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == [EXPORT]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert oct(target.stat().st_mode)[-3:] == "755" and oct((target / EXPORT).stat().st_mode)[-3:] == "644"


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no"), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise ConfigError("no")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_by_force_alone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write(target, "first")
    with pytest.raises(ConfigError, match="is not empty; give another folder, or --force"):
        write(target, "second")
    write(target, "second", force=True)
    assert (target / EXPORT).read_text() == "second"
    with pytest.raises(ConfigError, match="no"), new_folder(target, force=True):
        raise ConfigError("no")
    assert (target / EXPORT).read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_export_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"is no export \(it has no export\.json\)"):
        write(tmp_path, "", force=True)
    with pytest.raises(ConfigError, match="is a file"):
        write(tmp_path / "diary.txt", "", force=True)
    with pytest.raises(MtpeftError, match=r"cannot write .*diary\.txt/out"):
        write(tmp_path / "diary.txt" / "out", "")
    assert (tmp_path / "diary.txt").read_text() == "dear"
