"""Streams of clips: batches, views, workers, unreadable files, several data sets in one stream, Avalanche's loaders."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from torch.utils.data import DataLoader
from video_files import numbered_frames, write_video

from mtpeft.continual.benchmark import to_avalanche
from mtpeft.continual.scenario import build_scenario
from mtpeft.data.labelled import as_labelled
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.streams import Stream, class_incremental
from mtpeft.data.video import build_video_dataset
from mtpeft.data.video.clips import Clips
from mtpeft.errors import ConfigError, DataError, MtpeftError

CONFIG = {"input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.9}
CLASSES = ("catch", "jump", "throw", "wave")
TRAIN, TEST = 5, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes in HMDB51's layout, five training and two test videos of 12 frames each."""
    folder = tmp_path_factory.mktemp("hmdb")
    (folder / "splits").mkdir()
    for label, name in enumerate(CLASSES):
        lines = []
        for number in range(TRAIN + TEST):
            frames = np.roll(numbered_frames(12, 32, 64), 5 * number + label, axis=2)
            write_video(folder / "videos" / f"{name}_{number}.mp4", frames)
            lines.append(f"{name}_{number}.mp4 {1 if number < TRAIN else 2}")
        (folder / "splits" / f"{name}_test_split1.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A copy whose video catch_0, of the training split, is cut short."""
    shutil.copytree(root, tmp_path / "copy")
    victim = tmp_path / "copy/videos/catch_0.mp4"
    victim.write_bytes(victim.read_bytes()[:600])
    return tmp_path / "copy"


def data(root: Path, **options: Any) -> dict[str, Any]:
    return {"type": "hmdb51", "root": str(root), "frames": 3, "limit": None, **options}


def stream(root: Path, kind: str = "class_incremental", augment: Any = None, **options: Any) -> Stream:
    reading = {key: options.pop(key) for key in ("views", "crops", "max_bad_share", "size") if key in options}
    section = {"type": kind, "data": data(root, **reading), "num_tasks": 2, **options}
    return build_scenario(section, CONFIG, augment, 0, "small")


def test_clips_of_tasks_behind_one_head(root: Path) -> None:
    """Labels run through all tasks, and every task knows the names of all classes."""
    section = {"type": "class_incremental", "data": data(root), "tasks": {n: {"classes": [n]} for n in CLASSES[:2]}}
    made = build_scenario(section, CONFIG, None, 0, "small")
    assert [set(task.train.targets) for task in made] == [{0}, {1}]
    assert made[1].train.classes == made[0].test.classes == made.class_names == CLASSES[:2]
    assert made[1].train.batch([0])[1].tolist() == [1]


def test_a_class_incremental_stream_of_clips(root: Path) -> None:
    made = stream(root, order=[2, 0, 3, 1], train_per_class=4)
    assert [task.classes for task in made] == [(2, 0), (3, 1)] and [task.labels for task in made] == [(0, 1), (2, 3)]
    assert made.class_names == ("throw", "catch", "wave", "jump")
    x, y = made[1].train.batch([0, 4, 7])
    assert x.shape == (3, 3, 3, 16, 16) and x.dtype == torch.float32
    assert y.dtype == torch.int64 and y.tolist() == [made[1].train.targets[i] for i in (0, 4, 7)]
    assert len(made[0].train) == 8 and sorted(made[0].train.targets) == [0] * 4 + [1] * 4
    assert made[0].test.batch([1])[0].shape == (1, 3, 3, 16, 16)
    described = made.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["input"]["size"] == 16 and described["input"]["crop_ratio"] == 0.9
    assert described["input"]["decoder"].startswith("decord") and described["input"]["frames"] == 3


def test_training_clips_follow_torchs_generator_and_test_clips_do_not(root: Path) -> None:
    task = stream(root)[0]

    def drawn(clips: Any, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return clips.batch([0, 3])[0]

    assert torch.equal(drawn(task.train, 1), drawn(task.train, 1))
    assert not torch.equal(drawn(task.train, 1), drawn(task.train, 2))
    for fixed in (task.test, task.train.plain()):
        assert torch.equal(drawn(fixed, 1), drawn(fixed, 2))


def test_several_views_are_an_axis_of_their_own_in_testing_alone(root: Path) -> None:
    task = stream(root, views=2, crops=3)[0]
    assert task.train.batch([0, 1])[0].shape == (2, 3, 3, 16, 16)
    x, y = task.test.batch([0, 1])
    assert x.shape == (2, 6, 3, 3, 16, 16) and y.shape == (2,)
    assert task.train.plain().batch([0])[0].shape == (1, 6, 3, 3, 16, 16)


def test_the_loader_gives_the_same_with_workers_and_from_the_middle(root: Path) -> None:
    train = stream(root)[0].train
    alone = list(ResumableLoader(train, 4, seed=3, epoch=1))
    assert [len(y) for _, y in alone] == [4, 4, 2]
    for (x, y), (x2, y2) in zip(
        alone[1:], ResumableLoader(train, 4, seed=3, epoch=1, start=1, num_workers=2), strict=True
    ):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    other = next(iter(ResumableLoader(train, 4, seed=3, epoch=2)))
    assert not torch.equal(other[0], alone[0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_training_files_are_counted_over_all_workers(damaged: Path, workers: int) -> None:
    train = stream(damaged, max_bad_share=0.1)[0].train
    labels = [y for _, y in ResumableLoader(train, 2, seed=0, epoch=0, num_workers=workers)]
    assert train.skipped == ["videos/catch_0.mp4"] and len(torch.cat(labels)) == 10
    assert train.plain().batch(range(10))[0].shape[0] == 10  # features of the frozen backbone need them too
    strict = stream(damaged)[0].train
    with pytest.raises(
        DataError, match=r"1 of 10 videos cannot be used, first: .*catch_0\.mp4.*max_bad_share"
    ) as error:
        list(ResumableLoader(strict, 2, seed=0, epoch=0, num_workers=workers))
    assert "\n" not in str(error.value)


def test_files_of_all_workers_together_can_be_too_many(root: Path, tmp_path: Path) -> None:
    """Each worker meets one, which it could bear."""
    shutil.copytree(root, tmp_path / "copy")
    for number in (0, 1):
        (tmp_path / f"copy/videos/catch_{number}.mp4").write_bytes(b"no video")
    train = stream(tmp_path / "copy", max_bad_share=0.1)[0].train
    loader = ResumableLoader(train, 1, seed=0, epoch=0, shuffle=False, num_workers=2)
    with pytest.raises(DataError, match=r"2 of 10 videos cannot be used, first: .*catch_0"):
        list(loader)


def test_a_subset_answers_for_its_own_files(damaged: Path) -> None:
    first, second = stream(damaged, max_bad_share=0.1)
    first.train.batch(range(10))
    assert first.train.skipped == ["videos/catch_0.mp4"] and second.train.skipped == []
    second.train.batch(range(10))
    with pytest.raises(DataError, match=r"catch_0\.mp4"):
        as_labelled(build_video_dataset("hmdb51", "train", root=str(damaged), limit=None)).batch([0])


def test_tasks_from_several_data_sets(root: Path) -> None:
    head = {"name": "linear"}
    section = {
        "type": "task_incremental",
        "train_per_class": 3,
        "tasks": {
            "digits": {"data": {"type": "Digits"}, "test_per_class": 4},
            "clips": {"data": data(root), "classes": ["wave", "catch"], "head": head},
            "others": {"data": data(root), "classes": ["jump"], "train_per_class": 2},
        },
    }
    made = build_scenario(section, CONFIG, {"flip": True}, 0, "small")
    assert made.kind == "task_incremental" and made.task_names == ("digits", "clips", "others")
    assert [task.labels for task in made] == [tuple(range(10)), (0, 1), (0,)]
    assert [task.classes for task in made] == [tuple(range(10)), (10, 11), (12,)]
    assert made.class_names == (*map(str, range(10)), "wave", "catch", "jump")
    assert [(len(task.train), len(task.test)) for task in made] == [(30, 40), (6, 4), (2, 2)]
    assert [task.head for task in made] == [None, head, None]
    assert made[0].train.batch([0])[0].shape == (1, 3, 16, 16)
    x, y = made[1].train.batch(range(6))
    assert x.shape == (6, 3, 3, 16, 16) and sorted(y.tolist()) == [0, 0, 0, 1, 1, 1]
    train: Any = made[1].train
    shown = {record.name.split("/")[-1].split("_")[0]: record.label for record in train.dataset.records}
    assert shown == {"wave": 0, "catch": 1} and train.classes == ("wave", "catch")
    assert json.loads(json.dumps(made.describe()))["tasks"][1]["class_names"] == ["wave", "catch"]


def test_avalanche_reads_what_the_stream_holds(root: Path) -> None:
    made = stream(root, views=2)
    benchmark = to_avalanche(made)
    for part in ("train", "test"):
        for task, experience in zip(made, benchmark.streams[part], strict=True):
            clips = getattr(task, part)
            dataset = experience.dataset.eval()
            x, y, labels = next(iter(DataLoader(dataset, batch_size=20, collate_fn=dataset.collate_fn)))
            whole = clips.plain().batch(range(len(clips)))
            assert torch.equal(x, whole[0]) and torch.equal(y, whole[1]) and set(labels.tolist()) == {0}
            assert experience.classes_in_this_experience == list(task.labels)


def test_replay_mixes_clips_of_two_tasks_with_fresh_random_numbers(root: Path) -> None:
    random.seed(0)
    torch.manual_seed(0)
    train = to_avalanche(stream(root, "task_incremental")).train_stream
    memory = train[0].dataset.subset([0, 5, 6])
    loader = ReplayDataLoader(train[1].dataset, memory, batch_size=4, batch_size_mem=3, shuffle=False)
    x, y, labels = next(iter(loader))
    assert x.shape == (7, 3, 3, 16, 16) and sorted(labels.tolist()) == [0] * 3 + [1] * 4 and set(y.tolist()) == {0, 1}
    again = next(iter(loader))[0]
    assert not torch.equal(x, again)


def test_the_label_is_that_of_the_clip_shown(damaged: Path) -> None:
    """An unreadable file is replaced, maybe by one of another class."""
    train = to_avalanche(stream(damaged, max_bad_share=0.1)).train_stream[0].dataset
    clips: Any = stream(damaged, max_bad_share=0.1)[0].train
    labels = set()
    for seed in range(12):
        torch.manual_seed(seed)
        x, y, _ = train.collate_fn([train[0]])
        torch.manual_seed(seed)
        sample = clips.dataset.at_epoch(int(torch.randint(2**62, ())))[0]
        assert torch.equal(x[0], sample["video"]) and y.item() == sample["label"] and sample["skipped"]
        labels.add(y.item())
    assert labels == {0, 1}


def refused(section: dict[str, Any], augment: Any = None) -> str:
    with pytest.raises(MtpeftError) as error:
        build_scenario(section, CONFIG, augment, 0, "small")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_one_line(root: Path) -> None:
    split = {"type": "class_incremental", "num_tasks": 2, "data": data(root)}
    listed = {"type": "task_incremental", "tasks": {"clips": {"data": data(root)}}}
    assert "augmented by data.augment" in refused(split, {"flip": True})
    assert "all tasks are clips; use data.augment" in refused(listed, {"flip": True})
    domains = {"type": "domain_incremental", "data": data(root), "domains": [{"type": "none"}]}
    assert "domain_incremental stream has corrupted images for domains; 'hmdb51' gives clips" in refused(domains)
    assert "the tasks share one linear head" in refused({**split, "head": {"name": "linear"}})
    assert "head must be dict(name=" in refused({**split, "type": "task_incremental", "head": {"pool": "mean"}})
    assert "leave out data.split" in refused({**split, "data": data(root, split="train")})
    assert "Did you mean 'hmdb51'" in refused({**split, "data": {"type": "hmdb5"}})
    assert "takes no option 'frame'. Did you mean 'frames'" in refused({**split, "data": data(root, frame=3)})
    assert "hmdb51 train, task0" in stream(root)[0].train.name
    assert "6 of class 0 asked for, it has 5" in refused({**split, "train_per_class": 6})
    assert "stream.tasks is for a stream of type task_incremental or class_incremental" in refused(
        {**listed, "type": "domain_incremental"}
    )
    assert "nothing reads the key stream.num_tasks" in refused({**listed, "num_tasks": 2})
    assert "give stream.tasks.clips.data" in refused({**listed, "tasks": {"clips": {}}})
    tasks = {"clips": {"data": data(root), "classes": ["waves"]}}
    assert "unknown class 'waves' (recipe small, stream.tasks.clips.classes). Did you mean 'wave'" in refused(
        {**listed, "tasks": tasks}
    )
    tasks = {"clips": {"data": data(root), "class": ["wave"]}}
    assert "nothing reads the key stream.tasks.clips.class. Did you mean 'classes'" in refused(
        {**listed, "tasks": tasks}
    )


def test_square_clips_and_own_sizes(root: Path) -> None:
    wide = {**CONFIG, "input_size": (3, 16, 32)}
    section = {"type": "class_incremental", "num_tasks": 2, "data": data(root)}
    with pytest.raises(ConfigError, match=r"clips are square, but the backbone takes 16 x 32; give data\.size"):
        build_scenario(section, wide, None, 0, "small")
    assert stream(root, size=24)[0].train.batch([0])[0].shape[-2:] == (24, 24)


def test_video_data_sets_become_streams_without_a_recipe(root: Path) -> None:
    parts = [build_video_dataset("hmdb51", part, root=str(root), size=16, limit=None) for part in ("train", "val")]
    made = class_incremental(*parts, num_tasks=4)
    assert isinstance(made[3].train, Clips) and len(made[3].train) == TRAIN and len(made[3].test) == TEST
