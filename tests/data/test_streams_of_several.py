"""Domains and tasks with data of their own, and the class orders of published streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trees

from mtpeft.data.splits import class_order
from mtpeft.data.streams import build_stream
from mtpeft.data.task_list import build_task_list
from mtpeft.errors import MtpeftError

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def folder(root: Path, salt: int, classes: tuple[str, ...] = ("cat", "dog")) -> str:
    for part_number, part in enumerate(("train", "test")):
        for label, name in enumerate(classes):
            for number in range(2):
                seed = 1000 * salt + 100 * part_number + 10 * label + number
                trees.picture(root / part / name / f"{number}.png", seed)
    return str(root)


def refused(build: Any, *args: Any) -> str:
    with pytest.raises(MtpeftError) as caught:
        build(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_folder_per_domain(tmp_path: Path) -> None:
    domains = {name: {"root": folder(tmp_path / name, salt)} for salt, name in enumerate(("real", "sketch"))}
    section = {"type": "domain_incremental", "data": {"type": "ImageFolder"}, "domains": domains}
    stream = build_stream(section, CONFIG)
    assert stream.task_names == ("real", "sketch") and stream.class_names == ("cat", "dog")
    assert [len(task.train) for task in stream] == [4, 4] and stream[1].train.targets == [0, 0, 1, 1]
    assert "real has no type" in refused(build_stream, {**section, "data": {}}, CONFIG)
    assert "stream.domains.real must be a mapping" in refused(
        build_stream, {**section, "domains": {"real": "x"}}, CONFIG
    )
    other = {**domains, "more": {"root": folder(tmp_path / "more", 5, ("cat", "cow"))}}
    assert "domain 'more' lacks 'dog'" in refused(build_stream, {**section, "domains": other}, CONFIG)
    again = {**domains, "again": domains["real"]}
    assert "is trained on in 'real' and in 'again'" in refused(build_stream, {**section, "domains": again}, CONFIG)
    absent = {**domains, "no": {"root": str(tmp_path / "nowhere")}}
    assert "nowhere: no folder train" in refused(build_stream, {**section, "domains": absent}, CONFIG)
    assert "needs `domains`" in refused(
        build_stream, {"type": "domain_incremental", "data": {"type": "Digits"}}, CONFIG
    )


def test_published_domains(tmp_path: Path) -> None:
    """A class that a domain lacks in training; one test part for several domains."""
    data = {"type": "DomainNet", "root": str(trees.domainnet_tree(tmp_path / "d"))}
    section = {"type": "domain_incremental", "data": data, "domains": {n: {"domains": n} for n in ("real", "sketch")}}
    stream = build_stream(section, CONFIG)
    assert len(stream.class_names) == 345 and stream.class_names[5] == "thing_5"
    assert [sorted(set(task.train.targets)) for task in stream] == [[0, 5], [0]]
    data = {"type": "CORe50", "root": str(trees.core50_tree(tmp_path / "c")), "labels": "category"}
    section = {"type": "domain_incremental", "data": data, "domains": {f"s{n}": {"sessions": [n]} for n in (1, 2)}}
    stream = build_stream(section, CONFIG)
    assert stream.class_names[0] == "plug adapters" and len(stream[0].test) == len(stream[1].test) == 150


def test_several_data_sets_behind_one_head(tmp_path: Path) -> None:
    """Classes of one name are kept apart, and named by their tasks."""
    tasks = {
        "pets": {"data": {"type": "ImageFolder", "root": folder(tmp_path / "pets", 0, ("cat", "dog"))}},
        "farm": {"data": {"type": "ImageFolder", "root": folder(tmp_path / "farm", 1, ("cow", "dog", "pig"))}},
    }
    stream = build_task_list({"type": "class_incremental", "tasks": tasks}, CONFIG)
    assert stream.class_names == ("cat", "pets/dog", "cow", "farm/dog", "pig")
    assert [sorted(set(task.train.targets)) for task in stream] == [[0, 1], [2, 3, 4]]
    assert stream[1].train.classes == stream.class_names == stream[0].test.classes
    assert [stream[1].train.classes[label] for label in stream[1].test.targets[:3]] == ["cow", "cow", "farm/dog"]
    chosen = {"a": {"classes": ["pig"]}, "b": {"classes": ["cow", "dog"]}}
    section = {"type": "class_incremental", "data": tasks["farm"]["data"], "tasks": chosen}
    assert build_task_list(section, CONFIG).class_names == ("pig", "cow", "dog")
    twice = {**section, "tasks": {**chosen, "b": {"classes": ["cow", "pig"]}}}
    assert "class 'pig' of ImageFolder train is in tasks 'a' and 'b'" in refused(build_task_list, twice, CONFIG)
    headed = {**section, "head": {"name": "linear"}}
    assert "the tasks share one linear head" in refused(build_task_list, headed, CONFIG)
    leak = {"x": tasks["farm"], "y": {"data": {**tasks["farm"]["data"], "test_share": None}}}
    assert "is trained on in 'x' and in 'y'" in refused(
        build_task_list, {"type": "class_incremental", "tasks": leak}, CONFIG
    )


def test_data_without_a_type_change_those_of_the_stream(tmp_path: Path) -> None:
    for task in ("svhn", "kitti"):
        trees.vtab_tree(tmp_path, task)
    tasks = {task: {"data": {"task": task}} for task in ("svhn", "kitti")}
    section = {"type": "task_incremental", "data": {"type": "VTAB", "root": str(tmp_path)}, "tasks": tasks}
    stream = build_task_list(section, CONFIG)
    assert [len(task.labels) for task in stream] == [10, 4]


def test_class_orders_of_published_streams() -> None:
    """Those of numpy's legacy generator, whose beginnings papers' code prints."""
    assert class_order(tuple(range(100)), None, 1993, "numpy")[:7] == (68, 56, 78, 8, 23, 84, 90)
    assert class_order(tuple(range(200)), None, 1993, "numpy")[:5] == (168, 136, 51, 9, 183)
    assert class_order(tuple(range(100)), None, 1993)[:3] != (68, 56, 78)
    section = {"type": "class_incremental", "data": {"type": "Digits"}, "num_tasks": 5, "order_seed": 1}
    stream = build_stream({**section, "order_rng": "numpy"}, CONFIG)
    assert stream.settings["order_rng"] == "numpy" and "order_rng" not in build_stream(section, CONFIG).settings
    assert "unknown generator 'nump'" in refused(build_stream, {**section, "order_rng": "nump"}, CONFIG)
