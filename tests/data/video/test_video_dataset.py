"""Clips as items: shapes, determinism, workers, unreadable files, annotation formats, the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video_files import numbered_frames, write_video

from mtpeft.data.loader import ResumableLoader
from mtpeft.data.video import SkipTally, VideoDataset, build_video_dataset
from mtpeft.data.video.clip_cache import ClipCache
from mtpeft.data.video.records import VideoRecord
from mtpeft.data.video.sampling import SegmentSampling
from mtpeft.data.video.transforms import ClipTransform
from mtpeft.errors import ConfigError, DataError, UnknownNameError


def dataset(folder: Path, count: int = 6, train: bool = True, bad: int = 0, **options: Any) -> VideoDataset:
    """`count` videos of 12 frames, the first `bad` of them damaged; labels 0, 1, 0, 1, ..."""
    records = []
    for number in range(count):
        path = folder / f"{number}.mp4"
        if not path.is_file():
            write_video(path, np.roll(numbered_frames(12, 32, 64), 4 * number, axis=2))
            if number < bad:
                path.write_bytes(path.read_bytes()[:500])
        records.append(VideoRecord(str(path), number % 2, path.name))
    settings = {"limit": None, **options}
    return VideoDataset(records, ("a", "b"), SegmentSampling(4), ClipTransform(16), train, **settings)


def test_items_and_batches(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    item = data[3]
    assert item["video"].shape == (3, 4, 16, 16) and item["video"].dtype == torch.float32
    assert (item["label"], item["index"], item["name"], item["skipped"]) == (1, 3, "3.mp4", "")
    views = dataset(tmp_path, train=False, views=2, crops=3)[0]["video"]
    assert views.shape == (6, 3, 4, 16, 16)
    assert torch.equal(views, dataset(tmp_path, train=False, views=2, crops=3)[0]["video"])
    assert data.plain()[3]["video"].shape == (1, 3, 4, 16, 16)
    assert data.targets == [0, 1, 0, 1, 0, 1] and data.facts["decoder"].startswith("decord")
    part = data.subset([1, 3], {1: 0}, "only b")
    assert part.targets == [0, 0] and part.classes == ("b",) and part[1]["name"] == "3.mp4"


def test_an_item_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    first = dataset(tmp_path)[2]["video"]
    torch.manual_seed(7)
    again = dataset(tmp_path)
    assert torch.equal(again[2]["video"], first)
    again.set_epoch(1)
    assert not torch.equal(again[2]["video"], first)
    assert not torch.equal(dataset(tmp_path, seed=1)[2]["video"], first)
    assert torch.equal(dataset(tmp_path, cache_bytes=10**6)[2]["video"], first)
    assert torch.equal(dataset(tmp_path, limit=30.0)[2]["video"], first)


def test_the_resumable_loader_gives_the_same_with_workers(tmp_path: Path) -> None:
    data = dataset(tmp_path, limit=30.0)
    alone = list(ResumableLoader(data, 2, seed=0, epoch=3))
    shared = list(ResumableLoader(data, 2, seed=0, epoch=3, start=1, num_workers=2))
    assert len(alone) == 3 and len(shared) == 2 and alone[0]["video"].shape == (2, 3, 4, 16, 16)
    for one, two in zip(alone[1:], shared, strict=True):
        assert torch.equal(one["video"], two["video"]) and one["name"] == two["name"]
    other = list(ResumableLoader(data, 2, seed=0, epoch=4))
    assert not torch.equal(other[0]["video"], alone[0]["video"])


def test_unreadable_files_are_replaced_named_and_counted_in_training(tmp_path: Path) -> None:
    data = dataset(tmp_path, count=8, bad=1, max_bad_share=0.2)
    first = data[0]
    assert first["skipped"] == "0.mp4" and first["index"] != 0 and first["name"] == f"{first['index']}.mp4"
    assert torch.equal(data[0]["video"], first["video"])  # though the file is known to be bad by now
    assert list(data.bad) == [str(tmp_path / "0.mp4")]
    tally = SkipTally(data)
    for batch in ResumableLoader(data, 4, seed=0, epoch=0, num_workers=2):
        tally.update(batch["skipped"])
    assert tally.skipped == {"0.mp4"}
    with pytest.raises(DataError, match=r"2 of 8 videos cannot be used.*max_bad_share"):
        tally.update(["1.mp4"])


def test_too_many_unreadable_files_are_an_error(tmp_path: Path) -> None:
    data = dataset(tmp_path, count=4, bad=2, max_bad_share=0.25)
    data._count(data.records[0], DataError(f"{data.records[0].path}: damaged"))
    with pytest.raises(DataError, match=r"2 of 4 videos cannot be used, first: .*1\.mp4"):
        data[1]
    with pytest.raises(DataError, match=r"0\.mp4"):
        dataset(tmp_path, count=4)[0]  # none allowed by default
    with pytest.raises(DataError, match=r"0\.mp4"):
        dataset(tmp_path, count=4, train=False, max_bad_share=1.0)[0]  # never replaced in testing


def test_impossible_settings(tmp_path: Path) -> None:
    settings: tuple[dict[str, Any], ...] = (
        {"views": 0},
        {"crops": 2},
        {"limit": 0.0},
        {"max_bad_share": 2.0},
        {"cache_bytes": -1},
    )
    for options in (*settings, {"decoder": "x"}):
        with pytest.raises(ConfigError):
            dataset(tmp_path, **options)
    with pytest.raises(DataError, match="label 2, expected 0 to 1"):
        VideoDataset([VideoRecord("x", 2, "x")], ("a", "b"), SegmentSampling(4), ClipTransform(16), True)


def test_the_cache_keeps_what_was_used_last() -> None:
    cache = ClipCache(25)
    arrays = {key: np.full(10, number, np.uint8) for number, key in enumerate("abc")}
    cache.put("a", arrays["a"])
    cache.put("b", arrays["b"])
    assert cache.get("a") is arrays["a"]
    cache.put("c", arrays["c"])
    assert cache.get("b") is None and cache.get("a") is not None and (len(cache), cache.used) == (2, 20)
    cache.put("large", np.zeros(26, np.uint8))
    assert cache.get("large") is None and len(cache) == 2


CLIP = numbered_frames(6, 48, 64)
COMMON: dict[str, Any] = {"frames": 2, "size": 8, "limit": None}


def kinetics_tree(root: Path) -> dict[str, Any]:
    header = "label,youtube_id,time_start,time_end,split\n"
    for split, rows in {
        "train": ("juggling balls,aaaaaaaaaaa,5,15,train", "abseiling,-bbbbbbbbbb,0,10,train"),
        "val": ("juggling balls,ccccccccccc,100,110,val",),
    }.items():
        (root / f"{split}.csv").write_text(header + "\n".join(rows) + "\n")
    write_video(root / "train" / "juggling balls" / "aaaaaaaaaaa_000005_000015.mp4", CLIP)
    write_video(root / "train" / "-bbbbbbbbbb_000000_000010.mkv", CLIP)
    write_video(root / "val" / "juggling_balls" / "ccccccccccc_000100_000110.mp4", CLIP)
    return {"classes": ("abseiling", "juggling balls"), "train": [1, 0], "val": [1]}


def something_v2_tree(root: Path) -> dict[str, Any]:
    labels = {"Pushing something from left to right": "1", "Closing something": "0"}
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "labels.json").write_text(json.dumps(labels))
    train = [
        {"id": "7", "template": "Pushing [something] from left to right"},
        {"id": "8", "template": "Closing [something]"},
    ]
    (root / "labels" / "train.json").write_text(json.dumps(train))
    (root / "labels" / "validation.json").write_text(json.dumps(train[1:]))
    for number in "78":
        write_video(root / "20bn-something-something-v2" / f"{number}.webm", CLIP, "libvpx-vp9")
    return {"classes": ("Closing something", "Pushing something from left to right"), "train": [1, 0], "val": [0]}


def hmdb51_tree(root: Path) -> dict[str, Any]:
    (root / "splits").mkdir(parents=True)
    for name in ("clap", "wave"):
        lines = [f"{name}_{number}.avi {number}" for number in range(3)]
        (root / "splits" / f"{name}_test_split1.txt").write_text("\n".join(lines) + "\n")
        for number in (1, 2):
            write_video(root / "videos" / name / f"{name}_{number}.avi", CLIP, "mpeg4")
    return {"classes": ("clap", "wave"), "train": [0, 1], "val": [0, 1]}


def ucf101_tree(root: Path) -> dict[str, Any]:
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    (folder / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (folder / "trainlist01.txt").write_text("Biking/v_Biking_g08_c01.avi 2\nArchery/v_Archery_g08_c01.avi 1\n")
    (folder / "testlist01.txt").write_text("Biking/v_Biking_g01_c01.avi\n")
    for name in ("Biking/v_Biking_g08_c01", "Archery/v_Archery_g08_c01", "Biking/v_Biking_g01_c01"):
        write_video(root / "UCF-101" / f"{name}.avi", CLIP, "mpeg4")
    return {"classes": ("Archery", "Biking"), "train": [1, 0], "val": [1]}


def diving48_tree(root: Path) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    (root / "Diving48_vocab.json").write_text(
        json.dumps([["Back", "15som", "NoTwis", "PIKE"], ["Forward", "Dive", "PIKE"]])
    )
    entries = [{"vid_name": "x_1", "label": 1, "start_frame": 0, "end_frame": 9}, {"vid_name": "x_2", "label": 0}]
    (root / "Diving48_V2_train.json").write_text(json.dumps(entries))
    (root / "Diving48_V2_test.json").write_text(json.dumps(entries[:1]))
    for number in (1, 2):
        write_video(root / "rgb" / f"x_{number}.mp4", CLIP)
    return {"classes": ("Back 15som NoTwis PIKE", "Forward Dive PIKE"), "train": [1, 0], "val": [1]}


TREES = {
    "kinetics": kinetics_tree,
    "something_v2": something_v2_tree,
    "hmdb51": hmdb51_tree,
    "ucf101": ucf101_tree,
    "diving48": diving48_tree,
}


@pytest.mark.parametrize("name", TREES)
def test_annotation_formats(name: str, tmp_path: Path) -> None:
    expected = TREES[name](tmp_path)
    for split in ("train", "val"):
        data = build_video_dataset(name, split, root=str(tmp_path), **COMMON)
        assert data.classes == expected["classes"] and data.targets == expected[split]
        assert torch.isfinite(data[0]["video"]).all()
        assert data.transform.flip == (0.0 if name == "something_v2" else 0.5)
    Path(data.records[0].path).unlink()
    with pytest.raises(DataError, match=r"1 of \d videos cannot be used, first: .* is missing"):
        build_video_dataset(name, "val", root=str(tmp_path), **COMMON)
    with pytest.raises(DataError, match=r"is missing|no file"):
        build_video_dataset(name, "train", root=str(tmp_path / "elsewhere"), **COMMON)


def test_missing_and_unreadable_files_are_left_out_up_to_the_share(tmp_path: Path) -> None:
    kinetics_tree(tmp_path)
    (tmp_path / "train" / "-bbbbbbbbbb_000000_000010.mkv").write_bytes(b"no video")
    options = {**COMMON, "root": str(tmp_path), "limit": 30.0}
    assert len(build_video_dataset("kinetics", "train", **options)) == 2
    with pytest.raises(DataError, match="1 of 2 videos cannot be used"):
        build_video_dataset("kinetics", "train", check=True, **options)
    index = str(tmp_path / "index.json")
    data = build_video_dataset("kinetics", "train", check=True, check_index=index, max_bad_share=0.5, **options)
    assert [record.label for record in data.records] == [1] and Path(index).is_file()


def test_wrong_names_and_annotations(tmp_path: Path) -> None:
    root = {"root": str(tmp_path)}
    with pytest.raises(UnknownNameError, match="'kinetics'"):
        build_video_dataset("kinetic", "train", **root)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        build_video_dataset("kinetics", "dev", **root)
    with pytest.raises(ConfigError, match=r"no option 'frame'.*'frames'"):
        build_video_dataset("kinetics", "train", frame=3, **root)
    with pytest.raises(ConfigError, match="needs the option 'root'"):
        build_video_dataset("kinetics", "train")
    with pytest.raises(ConfigError, match=r"data\.augment takes no option 'flipp'.*'flip'"):
        ucf101_tree(tmp_path)
        build_video_dataset("ucf101", "train", augment={"flipp": 1}, **root)
    with pytest.raises(ConfigError, match="fold is 4"):
        build_video_dataset("hmdb51", "train", fold=4, **root)
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start\nx,y,1\n")
    with pytest.raises(DataError, match=r"train\.csv: column 'time_end' is missing"):
        build_video_dataset("kinetics", "train", **root)
    (tmp_path / "Diving48_V2_train.json").write_text("[{")
    (tmp_path / "Diving48_vocab.json").write_text('["a"]')
    with pytest.raises(DataError, match=r"Diving48_V2_train\.json: no valid JSON"):
        build_video_dataset("diving48", "train", **root)
