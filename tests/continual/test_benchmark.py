"""Avalanche benchmarks of our streams: contents, loaders, and its own plugins on top."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader, TaskBalancedDataLoader
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import (
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.storage_policy import ClassBalancedBuffer
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mtpeft.continual.benchmark import to_avalanche
from mtpeft.data.loader import ResumableLoader
from mtpeft.data.streams import Stream, build_stream

CONFIG = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def digits(kind: str, augment: dict[str, Any] | None = None, count: int = 30) -> Stream:
    split = {"domains": [{"type": "none"}, {"type": "contrast", "factor": 0.3}]}
    options = split if kind == "domain_incremental" else {"num_tasks": 5, "order_seed": 1}
    return build_stream(
        {"type": kind, "data": {"type": "Digits"}, "train_per_class": count, **options}, CONFIG, augment
    )


@pytest.mark.parametrize("kind", ["task_incremental", "class_incremental", "domain_incremental"])
def test_experiences_hold_what_the_stream_holds(kind: str) -> None:
    stream = digits(kind)
    benchmark = to_avalanche(stream)
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == len(stream)
    for part in ("train", "test"):
        for index, (task, experience) in enumerate(zip(stream, benchmark.streams[part], strict=True)):
            images = getattr(task, part)
            label = index if kind == "task_incremental" else 0
            assert experience.current_experience == index and experience.task_name == task.name
            assert experience.task_labels == [label] and experience.task_label == label
            assert experience.classes_in_this_experience == list(task.labels)
            dataset = experience.dataset.eval()
            assert list(dataset.targets) == images.targets
            assert set(dataset.targets_task_labels) == {label}
            loaded = list(DataLoader(dataset, batch_size=50, collate_fn=dataset.collate_fn))
            assert torch.equal(torch.cat([batch[0] for batch in loaded]), images.plain().batch(range(len(images)))[0])
            assert torch.cat([batch[1] for batch in loaded]).tolist() == images.targets
            assert set(torch.cat([batch[2] for batch in loaded]).tolist()) == {label}


def test_the_classes_timeline_grows_in_a_class_incremental_stream() -> None:
    train = to_avalanche(digits("class_incremental")).train_stream
    assert [len(experience.classes_seen_so_far) for experience in train] == [2, 4, 6, 8, 10]
    assert set(train[2].classes_in_this_experience) == {4, 5}
    assert set(train[2].previous_classes) == {0, 1, 2, 3} and set(train[2].future_classes) == {6, 7, 8, 9}


def test_only_the_training_group_augments_also_after_subset_and_concat() -> None:
    stream = digits("class_incremental", augment={"crop_padding": 2, "flip": True})
    train = to_avalanche(stream).train_stream
    joined = train[0].dataset.subset(list(range(20))).concat(train[1].dataset.subset(list(range(20))))
    plain = torch.cat([stream[i].train.plain().batch(range(20))[0] for i in (0, 1)])

    def load(dataset: Any) -> Tensor:
        return next(iter(DataLoader(dataset, batch_size=40, collate_fn=dataset.collate_fn)))[0]

    assert torch.equal(load(joined.eval()), plain)
    assert not torch.equal(load(joined), plain)
    assert not torch.equal(load(joined.eval().train()), plain)


def test_avalanche_loaders_cover_the_data() -> None:
    train = to_avalanche(digits("task_incremental")).train_stream
    both = train[0].dataset.concat(train[1].dataset)
    batches = list(TaskBalancedDataLoader(both, batch_size=20, oversample_small_groups=True))
    assert all(batch[0].shape == (20, 3, 8, 8) and batch[2].tolist() == [0] * 10 + [1] * 10 for batch in batches)
    assert sum(len(batch[0]) for batch in batches) == len(both)
    replay = ReplayDataLoader(train[1].dataset, train[0].dataset, batch_size=12, batch_size_mem=6, shuffle=True)
    images, labels, tasks = next(iter(replay))
    assert images.shape == (18, 3, 8, 8) and images.dtype == torch.float32 and len(labels) == 18
    assert sorted(tasks.tolist()) == [0] * 6 + [1] * 12


def test_the_resumable_loader_reads_an_avalanche_data_set() -> None:
    dataset = to_avalanche(digits("task_incremental", augment={"flip": True})).train_stream[3].dataset
    alone = list(ResumableLoader(dataset, 16, seed=0, epoch=0))
    assert len(alone[0]) == 3 and set(alone[0][2].tolist()) == {3}
    for x, y in zip(alone[2:], ResumableLoader(dataset, 16, seed=0, epoch=0, start=2, num_workers=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True))


class MultiHead(MultiTaskModule):
    """A multi-head linear network, for the task-incremental case."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU())
        self.head = MultiHeadClassifier(64, initial_out_features=2)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x), task_labels)
        return output


PLUGINS = {
    "none": lambda: [],
    "replay": lambda: [ReplayPlugin(mem_size=40)],
    "class replay": lambda: [ReplayPlugin(mem_size=40, storage_policy=ClassBalancedBuffer(40))],
    "ewc": lambda: [EWCPlugin(ewc_lambda=1.0)],
    "lwf": lambda: [LwFPlugin(alpha=1.0)],
    "si": lambda: [SynapticIntelligencePlugin(si_lambda=0.1)],
    "agem": lambda: [AGEMPlugin(patterns_per_experience=20, sample_size=20)],
}


def accuracies(kind: str, plugins: list[Any]) -> list[float]:
    """Train on the whole stream; the accuracy on each test experience at the end."""
    random.seed(0)
    torch.manual_seed(0)
    benchmark = to_avalanche(digits(kind))
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10))
    model = MultiHead() if kind == "task_incremental" else single
    strategy = SupervisedTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=20,
        train_epochs=3,
        eval_mb_size=100,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    results = strategy.eval(benchmark.test_stream)
    return [value for key, value in sorted(results.items()) if key.startswith("Top1_Acc_Exp")]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_avalanche_plugins_run_unchanged_task_incremental(plugin: str) -> None:
    values = accuracies("task_incremental", PLUGINS[plugin]())
    assert len(values) == 5 and sum(values) / 5 > 0.7


@pytest.mark.parametrize("plugin", PLUGINS)
def test_avalanche_plugins_run_unchanged_class_incremental(plugin: str) -> None:
    values = accuracies("class_incremental", PLUGINS[plugin]())
    assert len(values) == 5 and values[-1] > 0.7


def test_replay_remembers_what_plain_training_forgets() -> None:
    plain = accuracies("class_incremental", [])
    replayed = accuracies("class_incremental", [ReplayPlugin(mem_size=60)])
    assert sum(plain[:-1]) / 4 < 0.2 < 0.3 < sum(replayed[:-1]) / 4
