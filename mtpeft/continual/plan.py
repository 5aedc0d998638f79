"""What a plan (`mtpeft.runs.plan`) has to know of a continual run: its kinds of steps, as the run's own strategy does them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from mtpeft.continual.benchmark import TaskLoader
from mtpeft.continual.built import Built
from mtpeft.continual.command import rows_of
from mtpeft.continual.inputs import shapes_of
from mtpeft.continual.plugins import SupervisedPlugin
from mtpeft.continual.search import SearchRecipe
from mtpeft.data.dense.stream import DenseStream, LabelView
from mtpeft.data.streams import TASK_KNOWN, Stream
from mtpeft.manager.flops import forward_flops
from mtpeft.manager.memory import Memory, measure_memory
from mtpeft.runs.plan import Run, Seen, Watch, build

KEYS = ("stream",)


def runs(recipe: dict[str, Any]) -> Iterator[Run]:
    """The run of a recipe, of every row of a comparison, or of a search, each built when it is asked for.

    Of a search these are the supernet and some subnet within its limit; what is measured between the two is not told.
    """
    if "search" in recipe:
        stages = SearchRecipe(recipe)
        supernet = build(stages.supernet(), KEYS, _run)
        yield supernet
        yield build(stages.subnet(stages.any_subnet(supernet.manager)), KEYS, _run)
        return
    for row in rows_of(recipe):
        yield build(row.recipe, KEYS, _run)


def _run(recipe: dict[str, Any]) -> Run:
    built = Built(recipe)
    parts = [_Steps(built, group) for group in _alike(built)]

    def finish() -> None:  # a growing head as it is at the end
        for index in range(len(built.stream)):
            built.model.begin(index)

    def memories() -> dict[str, Memory]:
        shapes = shapes_of(built.stream, built.manager)
        autocast, make = built.strategy.update.autocast, built.training.optimizer_of
        return measure_memory(built.manager, list(shapes), optimizer=make, shapes=shapes, autocast=autocast)

    return Run(
        name=built.name,
        engine="continual",
        backbone=built.backbone_name,
        manager=built.manager,
        training=built.training,
        device=built.device,
        parts=parts,
        evaluated=_evaluated(built),
        copies=1,
        trained=lambda part: [p for group in built.strategy.optimizer.param_groups for p in group["params"]],
        memories=memories,
        weights=lambda: [*built.manager.parameters(), *built.manager.buffers()],
        finish=finish,
        plugins=built.plugins,
    )


def _alike(built: Built) -> list[list[int]]:
    """The experiences by kind: those of one data set and one head differ in their classes alone."""
    stream = built.stream
    if isinstance(stream, DenseStream):
        return [[index] for index in range(len(stream))]
    kinds: dict[str, list[int]] = {}
    for index, (task, (_, head)) in enumerate(zip(stream, built.model.experiences, strict=True)):
        shown = {key: value for key, value in head.items() if key != "num_classes"}
        kinds.setdefault(repr((type(task.train).__name__, task.train.describe(), shown)), []).append(index)
    return list(kinds.values())


def _evaluated(built: Built) -> int:
    """Samples that are predicted in all: before training, after every experience, and for the frozen baselines."""
    tests = [len(task.test) for task in built.stream]
    known, class_incremental = built.stream.kind in TASK_KNOWN, built.stream.kind == "class_incremental"
    total = 0 if class_incremental else sum(tests)
    for i, own in enumerate(tests):
        total += own if known and built.manager.isolated else sum(tests[: i + 1] if class_incremental else tests)
    if built.with_baselines:
        assert isinstance(built.stream, Stream)
        total += sum(tests) + sum(len(task.train) for task in built.stream)
    return total


class _Done(Exception):
    """Raised out of the training loop after the last step asked for."""


class _Watching(SupervisedPlugin[Any]):
    """Enters a watch when a step begins; `leave` is called when it has ended."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        super().__init__()
        self.watches = list(watches)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """A step begins: its batch has been read."""
        self.watches[0].__enter__()

    def leave(self) -> None:
        """A step has ended; raises `_Done` after the last."""
        self.watches.pop(0).__exit__(None, None, None)
        if not self.watches:
            raise _Done


class _Steps:
    """The steps of the experiences `indices`, those of the first standing for all."""

    def __init__(self, built: Built, indices: Sequence[int]) -> None:
        self.built, self.indices, self.index = built, list(indices), indices[0]
        stream, strategy = built.stream, built.strategy
        self.tasks: Sequence[str] = [stream[index].name for index in indices]
        self.sizes: tuple[int, int] = (2, 3)
        lengths = [-(-strategy.epoch_batches(i) // built.training.accumulate) for i in indices]
        self.steps: int | None = sum(lengths) * built.training.epochs
        self.epoch: int | None = sum(lengths)
        self._first: torch.Tensor | None = None

    def read(self, samples: int) -> Any:
        data = self.built.stream[self.index].train
        indices = [i % len(data) for i in range(samples)]
        return data.collate_fn([data[i] for i in indices])[:2] if isinstance(data, LabelView) else data.batch(indices)

    def train(self, batches: Sequence[Any], watches: Sequence[Watch]) -> Seen:
        strategy, parts = self.built.strategy, self.built.training.accumulate
        watching = _Watching(watches)
        label = self.index if self.built.stream.kind in TASK_KNOWN else 0
        read: Any = [batch for batch in batches for _ in range(parts)]
        loader = TaskLoader(read, label)
        strategy.on_step, own = watching.leave, strategy._loader
        strategy._loader = lambda epoch, start=0: loader  # type: ignore[method-assign]
        strategy.plugins.insert(0, watching)
        try:
            with suppress(_Done):
                strategy.train_experience(self.index)
        finally:
            strategy.plugins.remove(watching)
            strategy._loader = own  # type: ignore[method-assign]
        x, name = strategy.mb_x, self.tasks[0]
        self._first = x[:1]
        return Seen(tuple(x.shape), {name: tuple(strategy.mb_output.shape)}, {name: strategy.loss.item()})

    def evaluate(self, samples: int) -> int:
        data = self.built.stream[self.index].test
        indices = range(min(samples, len(data)))
        read = data.collate_fn([data[i] for i in indices]) if isinstance(data, LabelView) else data.batch(indices)
        model: nn.Module = self.built.model.eval()
        measure = self.built.strategy.objectives[self.index].measure()
        with torch.no_grad():
            output = model(read[0].to(self.built.device), torch.full((len(indices),), self.index))
        measure.update(output, read[1].to(self.built.device))
        return len(indices)

    def flops(self) -> int:
        assert self._first is not None
        return forward_flops(self.built.manager, self._first, self.built.model.task_of(self.index))
