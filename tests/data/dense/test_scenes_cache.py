"""The cache of rendered scenes: checksums, damage, interruption, several processes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtpeft.data.dense.scenes import cache
from mtpeft.data.dense.scenes.cache import load_scenes
from mtpeft.data.manifest import MANIFEST


@pytest.fixture
def shards_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 2)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The ranges of scenes that are rendered from now on."""
    calls: list[range] = []
    render = cache.render_shard

    def spy(seed: int, split: str, indices: range, size: int, path: str) -> str:
        calls.append(indices)
        return render(seed, split, indices, size, path)

    monkeypatch.setattr(cache, "render_shard", spy)
    return calls


def load(folder: Path, count: int = 4, **options: Any) -> dict[str, np.ndarray]:
    return load_scenes(str(folder), 0, "train", count, 16, **{"workers": 1, **options})


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


@pytest.mark.usefixtures("shards_of_two")
def test_scenes_are_rendered_once(tmp_path: Path, rendered: list[range]) -> None:
    first = load(tmp_path)
    assert rendered == [range(0, 2), range(2, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load(tmp_path)
    assert len(rendered) == 2
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)


@pytest.mark.usefixtures("shards_of_two")
def test_a_damaged_file_is_named_and_rendered_again(tmp_path: Path, rendered: list[range]) -> None:
    first = load(tmp_path)
    damaged = files(tmp_path)[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=f"{damaged.name} is damaged"):
        again = load(tmp_path)
    assert rendered[2:] == [range(2, 4)]
    for key, values in first.items():
        np.testing.assert_array_equal(again[key], values)


@pytest.mark.usefixtures("shards_of_two")
def test_a_damaged_manifest_is_named(tmp_path: Path, rendered: list[range]) -> None:
    load(tmp_path)
    manifest = next(tmp_path.rglob(MANIFEST))
    manifest.write_text(manifest.read_text()[:20])
    with pytest.warns(UserWarning, match=r"manifest\.json is damaged"):
        load(tmp_path)
    assert len(rendered) == 4 and len(json.loads(manifest.read_text())) == 2


@pytest.mark.usefixtures("shards_of_two")
def test_an_interruption_keeps_what_was_finished(
    tmp_path: Path, rendered: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = cache.render_shard

    def interrupted(seed: int, split: str, indices: range, size: int, path: str) -> str:
        if indices.start == 2:
            raise KeyboardInterrupt
        return spied(seed, split, indices, size, path)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "render_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    assert len(files(tmp_path)) == 1
    load(tmp_path)
    assert rendered == [range(0, 2), range(2, 4)]  # the first file was not rendered again


@pytest.mark.usefixtures("shards_of_two")
def test_more_scenes_keep_the_earlier_ones(tmp_path: Path, rendered: list[range]) -> None:
    few = load(tmp_path, count=3)
    many = load(tmp_path, count=5)
    for key, values in few.items():
        np.testing.assert_array_equal(many[key][:3], values)
    assert rendered == [range(0, 2), range(2, 3), range(2, 4), range(4, 5)]  # only the half-filled file anew


@pytest.mark.usefixtures("shards_of_two")
def test_several_processes_give_the_same_scenes(tmp_path: Path) -> None:
    one, two = load(tmp_path / "one"), load(tmp_path / "two", workers=2)
    for key, values in one.items():
        np.testing.assert_array_equal(two[key], values)
    assert [f.read_bytes() for f in files(tmp_path / "one")] == [f.read_bytes() for f in files(tmp_path / "two")]
