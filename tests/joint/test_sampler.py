"""Which samples and tasks are drawn: shares, permutations, processes, resuming, workers."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
import torch
from squares import make_recipe

from mtpeft.errors import ConfigError, UnknownNameError
from mtpeft.joint.data import build_loader
from mtpeft.joint.experiment import JointExperiment
from mtpeft.joint.sampler import Plan, TaskSampler

SIZES = [40, 10]
SOURCES = {"a": 0, "b": 1, "c": 1}


def plans(count: int, state: dict[str, Any] | None = None, **options: Any) -> list[Plan]:
    """The first plans of a sampler of two data sets."""
    sampler = TaskSampler(SIZES, SOURCES, **{"batch_size": 6, **options})
    if state is not None:
        sampler.state = state
    return list(islice(sampler, count))


def tasks(found: list[Plan]) -> list[str]:
    return [task for plan in found for part in plan.parts for draw in part for task in draw.tasks]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "uniform"}, [1 / 3, 1 / 3, 1 / 3]),
        ({"name": "proportional"}, [40 / 60, 10 / 60, 10 / 60]),
        ({"name": "temperature", "temperature": 2.0}, [0.5, 0.25, 0.25]),
    ],
)
def test_shares(options: dict[str, Any], expected: list[float]) -> None:
    """Over 6000 draws each share is within four standard deviations."""
    counts = Counter(tasks(plans(1000, **options)))
    for task, share in zip(SOURCES, expected, strict=True):
        assert counts[task] / 6000 == pytest.approx(share, abs=4 * (share * (1 - share) / 6000) ** 0.5)


def test_all_reads_every_sample_once_an_epoch() -> None:
    found = [draw for plan in plans(25, name="all") for part in plan.parts for draw in part]
    for epoch in range(3):
        seen = [(d.source, d.index) for d in found[50 * epoch : 50 * (epoch + 1)]]
        assert sorted(seen) == [(0, i) for i in range(40)] + [(1, i) for i in range(10)]
    assert {d.tasks for d in found} == {("a",), ("b", "c")}
    assert [d.epoch for d in found] == [0] * 50 + [1] * 50 + [2] * 50
    assert [d.index for d in found[:50]] != [d.index for d in found[50:100]]


def test_each_task_reads_its_data_set_in_permutations() -> None:
    found = [draw for plan in plans(60, name="uniform") for part in plan.parts for draw in part]
    for task in "bc":
        indices = [d.index for d in found if d.tasks == (task,)]
        assert sorted(indices[:10]) == list(range(10)) == sorted(indices[10:20])


def test_groups_share_a_task() -> None:
    for plan in plans(20, name="uniform", group=3, parts=2):
        for part in plan.parts:
            assert len({d.tasks for d in part[:3]}) == len({d.tasks for d in part[3:]}) == 1


@pytest.mark.parametrize("name", ["all", "uniform", "temperature"])
def test_resumed_sampler_goes_on(name: str) -> None:
    whole = plans(30, name=name, parts=2)
    assert plans(13, state=whole[16].after, name=name, parts=2) == whole[17:]
    assert plans(30, name=name, parts=2, seed=1) != whole


@pytest.mark.parametrize("name", ["all", "uniform"])
def test_processes_split_the_batch(name: str) -> None:
    whole = plans(10, name=name)
    shares = [plans(10, name=name, rank=r, world=3) for r in range(3)]
    for step, plan in enumerate(whole):
        together = tuple(d for share in shares for d in share[step].parts[0])
        assert together == plan.parts[0] and all(share[step].after == plan.after for share in shares)


def test_wrong_numbers() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 6 must be a multiple of the processes \(4\)"):
        plans(1, world=4)
    with pytest.raises(ConfigError, match=r"sampler.group \(4\)"):
        plans(1, name="uniform", group=4)
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        plans(1, name="unifrom")


def _steps(experiment: JointExperiment, count: int, workers: int) -> list[dict[str, Any]]:
    return list(islice(build_loader(experiment.data, experiment.sampler, workers, experiment.device), count))


def _equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    if first["after"] != second["after"]:
        return False
    for a, b in zip(first["parts"], second["parts"], strict=True):
        same = torch.equal(a["images"], b["images"]) and a["labels"].keys() == b["labels"].keys()
        if not same or any(
            not torch.equal(x, y) for t in a["labels"] for x, y in zip(a["labels"][t], b["labels"][t], strict=True)
        ):
            return False
    return True


def test_workers_and_resuming_change_nothing_and_read_nothing_again() -> None:
    """Also across epochs, with random transforms."""
    recipe = make_recipe(
        sampler={"name": "uniform"}, data={"length": 5}, transforms={"train": [{"name": "flip"}], "val": []}
    )
    experiment = JointExperiment(recipe)
    whole = _steps(experiment, 6, workers=0)
    assert all(_equal(a, b) for a, b in zip(whole, _steps(experiment, 6, workers=2), strict=True))
    resumed = JointExperiment(recipe)
    resumed.sampler.state = whole[3]["after"]
    rest = _steps(resumed, 2, workers=0)
    assert all(_equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert len(resumed.data.train[0].dataset.reads) == 2 * 4


def test_data_sets_can_be_mixed() -> None:
    """Tasks with a data section of their own; equal sections are one data set; `label` names another task's label."""
    own = {"name": "squares", "length": 6, "tasks": ("depth",)}
    recipe = make_recipe(
        tasks={"semseg": {}, "depth": {"data": own}, "far": {"data": dict(own), "label": "depth"}},
        training={"batch_size": 6},
    )
    experiment = JointExperiment(recipe)
    assert experiment.data.sizes == [12, 6]
    assert experiment.data.tasks_of(1) == ("depth", "far")
    step = _steps(experiment, 1, 0)[0]["parts"][0]
    rows = {task: r.tolist() for task, (r, _) in step["labels"].items()}
    assert rows["depth"] == rows["far"] and not set(rows["depth"]) & set(rows["semseg"])
    assert sorted(rows["depth"] + rows["semseg"]) == list(range(6))
