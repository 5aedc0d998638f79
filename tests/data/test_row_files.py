"""Rows on disk: what was written comes back, and nothing else ever does."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtpeft.data.row_files import GIB, RowFiles
from mtpeft.errors import ConfigError

WIDTH = 5
KEY = {"backbone": "one"}


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def row(number: int) -> np.ndarray:
    return np.arange(WIDTH, dtype=np.float32) + 10 * number


def opened(root: Path, told: list[str] | None = None, limit: int = GIB, key: dict[str, str] = KEY) -> RowFiles:
    return RowFiles(root, key, WIDTH, "<f4", limit, (told if told is not None else []).append)


def filled(root: Path, numbers: range = range(6), key: dict[str, str] = KEY) -> RowFiles:
    files = opened(root, key=key)
    files.at_once = 4
    for number in numbers:
        files.add(digest(number), row(number))
    files.flush()
    return files


def test_back_again(tmp_path: Path) -> None:
    written = filled(tmp_path)
    assert len(written.files) == 2  # of four rows and of two
    for files in (written, opened(tmp_path), pickle.loads(pickle.dumps(written))):
        assert np.array_equal(files.read([digest(5), digest(0), digest(5)]), np.stack([row(5), row(0), row(5)]))
        assert digest(6) not in files
        with pytest.raises(KeyError):
            files.read([digest(6)])


def test_rows_not_written_yet(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.add(digest(0), row(0))
    assert digest(0) in files and np.array_equal(files.read([digest(0)])[0], row(0))
    assert digest(0) not in opened(tmp_path)  # a kill loses these, and nothing else


@pytest.mark.parametrize("damage", ["a bit", "truncated", "empty", "longer", "no numpy file"])
def test_damage_is_told_and_removed(damage: str, tmp_path: Path) -> None:
    first, second = sorted(filled(tmp_path).files)
    data = bytearray(first.read_bytes())
    if damage == "a bit":
        data[-3] ^= 1
    new = {"truncated": data[:-8], "empty": b"", "longer": data + b"x", "no numpy file": b"rows"}.get(damage, data)
    first.write_bytes(bytes(new))
    told: list[str] = []
    files = opened(tmp_path, told)
    assert len(told) == 1 and str(first) in told[0] and "computed again" in told[0]
    assert not first.exists() and files.files == [second]
    kept = [number for number in range(6) if digest(number) in files]
    assert len(kept) in (2, 4)
    assert np.array_equal(files.read([digest(n) for n in kept]), np.stack([row(n) for n in kept]))


def test_a_file_of_another_key(tmp_path: Path) -> None:
    """Whole and well named, but made by another backbone."""
    other = filled(tmp_path, key={"backbone": "two"}).files[0]
    own = opened(tmp_path)
    own.folder.mkdir()
    shutil.copy(other, own.folder / other.name)
    told: list[str] = []
    assert digest(0) not in opened(tmp_path, told) and len(told) == 1
    assert other.exists()


def test_limit(tmp_path: Path) -> None:
    files = opened(tmp_path, limit=700)
    with pytest.raises(ConfigError, match=r"100 rows of features take .* more than cache.limit"):
        files.check_room(100)
    files.check_room(3)
    for number in range(8):  # 52 bytes each, and a header
        files.add(digest(number), row(number))
    files.flush()
    files.add(digest(8), row(8))
    with pytest.raises(ConfigError, match=r"no room for more rows of features.*raise cache.limit"):
        files.flush()
    assert digest(7) in opened(tmp_path)


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    old, open_one = filled(tmp_path, key={"backbone": "two"}), filled(tmp_path, key={"backbone": "three"})
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    told: list[str] = []
    files = opened(tmp_path, told, limit=size)
    files.add(digest(0), row(0))
    with pytest.raises(ConfigError, match="no room"):  # both are in use
        files.flush()
    assert old._lock is not None
    old._lock.close()
    files.flush()
    assert not old.folder.exists() and open_one.folder.exists() and digest(0) in opened(tmp_path)
    assert len(told) == 1 and "not used for longest" in told[0]


def test_two_at_once(tmp_path: Path) -> None:
    """Both compute the same rows: the same file, and rows of their own: one more."""
    one, two = opened(tmp_path), opened(tmp_path)
    for files, numbers in ((one, (0, 1)), (two, (0, 1)), (two, (2,))):
        for number in numbers:
            files.add(digest(number), row(number))
        files.flush()
    again = opened(tmp_path)
    assert len(again.files) == 2 and all(digest(n) in again for n in range(3))
