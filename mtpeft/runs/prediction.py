"""`mtpeft.load_run`: a finished run that predicts, on pictures and videos as the run showed its test data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtpeft.data.inputs import Input, MapInput, Shown, build_input
from mtpeft.dense.kinds import build_kind
from mtpeft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from mtpeft.heads.resize import enlarge
from mtpeft.manager.ensemble import mean_of_views
from mtpeft.manager.image_sizes import fitting_size
from mtpeft.options import Count, Section
from mtpeft.runs.loading import LoadedRun, read_run
from mtpeft.runs.model_folder import CLASS, DOMAIN, MODEL, ModelTask
from mtpeft.runs.predicted import Classes, Map, Prediction
from mtpeft.runs.training import Training

Result = Prediction | dict[str, Prediction]


def load_run(
    folder: str | Path,
    device: str | torch.device = "auto",
    *,
    trust_imports: bool = False,
    best: bool = False,
    backbone: nn.Module | None = None,
) -> Predictor:
    """The model of a finished run, ready to predict.

    `device` "auto" is a GPU where there is one; `best` takes the model that validation data chose, where a joint run has
    one; `backbone` is the run's where its weights cannot be downloaded. The folder executes nothing, except modules its
    recipe imports with `trust_imports`. Raises `ConfigError` and `CheckpointError` as `read_run` does.
    """
    return Predictor(read_run(folder, device, trust_imports=trust_imports, best=best, backbone=backbone))


class Predictor:
    """Predicts with a run's model.

    A class- or domain-incremental run tells no tasks apart: without a task its classes are those of all tasks. With a
    task the classes are that task's alone.
    """

    def __init__(self, run: LoadedRun) -> None:
        """Raises `CheckpointError` where what tasks.json says does not fit the model."""
        self.run, self.manager, self.device = run, run.manager, run.device
        self.scenario = run.tasks.scenario
        self._tasks = {task.name: task for task in run.tasks.tasks}
        self._file = run.folder / MODEL / "tasks.json"
        for task in self._tasks.values():
            if task.weights not in self.manager.tasks:
                raise CheckpointError(
                    f"{self._file} names the weights of {task.weights!r}, which the model does not have"
                )
        self._kinds = {
            name: build_kind(task.kind, **task.options) for name, task in self._tasks.items() if task.kind is not None
        }
        self._inputs: dict[str, Input] = {}
        training = Section(run.recipe, str(run.folder)).section("training")
        self.batch_size: int = training.take("eval_batch_size", Training.eval_batch_size, Count)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order of the run."""
        return list(self._tasks)

    def predict(
        self,
        inputs: Any,
        task: str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[Result]:
        """A prediction for every input, in order; with several tasks {task: prediction}, from one pass where it can be.

        `inputs`: paths, PIL images, arrays (H, W, 3) or (H, W), or tensors (C, H, W), in one sequence, or one of them.
        Numbers are uint8, or floats of 0 to 1 or 0 to 255; mean and std are applied here. Of a model for clips: paths of
        videos, or uint8 frames (T, H, W, 3) of whole videos. `task` names one task, `tasks` several; without either, all
        classes where the run tells no tasks apart, else the only task, or all tasks that are maps.
        `batch_size` is by default that of the run's evaluation. Raises `DataError` naming the first input that cannot be
        read, `UnknownNameError` for a task, `ConfigError` where a task must be named.
        """
        results = []
        for found in self.each(inputs, task, tasks=tasks, batch_size=batch_size):
            if isinstance(found, DataError):
                raise found
            results.append(found)
        return results

    def each(
        self,
        inputs: Any,
        task: str | None = None,
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Result | DataError]:
        """As `predict`, one after the other; for an input that cannot be read the error, and the rest goes on.

        What is wrong with the task or the batch size is raised at once.
        """
        names, several = self._chosen(task, tasks)
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise ConfigError(f"batch_size is {size}, expected 1 or more")
        reader = self.input(names[0] if names else self.tasks[0])
        numbered = enumerate([inputs] if reader.single(inputs) else inputs)
        chunks = iter(lambda: list(islice(numbered, size)), [])
        return (found for chunk in chunks for found in self._batch(chunk, reader, names, several))

    def input(self, task: str) -> Input:
        """What makes an input of the task ready; `UnknownNameError` for a task the run does not have."""
        found = self._task(task)
        if task not in self._inputs:
            made = self._inputs[task] = build_input(found.input, f"{self._file}, task {task!r}")
            if isinstance(made, MapInput):
                made.fit = lambda size: fitting_size(self.manager, size)
        return self._inputs[task]

    # inside -------------------------------------------------------------------------------------------------------

    def _task(self, name: str) -> ModelTask:
        if name not in self._tasks:
            raise UnknownNameError("task", name, self._tasks, str(self.run.folder))
        return self._tasks[name]

    def _chosen(self, task: str | None, tasks: Sequence[str] | None) -> tuple[list[str], bool]:
        """The tasks asked for, none for all classes of a run that tells no tasks apart; and whether they are several."""
        if task is not None and tasks is not None:
            raise ConfigError("give task or tasks, not both")
        if tasks is not None:
            names = list(dict.fromkeys([tasks] if isinstance(tasks, str) else tasks))
            if not names:
                raise ConfigError("tasks is empty: name at least one")
            self._check_alike(names)
            return names, True
        if task is not None:
            return [self._task(task).name], False
        if self.scenario in (CLASS, DOMAIN):
            self._check_alike(self.tasks)
            return [], False
        if len(self._tasks) == 1:
            return self.tasks, False
        if len(self._kinds) < len(self._tasks):
            raise ConfigError(f"{self.run.folder} has several tasks: name one of {', '.join(self._tasks)}")
        self._check_alike(self.tasks)
        return self.tasks, True

    def _check_alike(self, names: Sequence[str]) -> None:
        """All tasks of one pass see the same inputs."""
        for name in names:
            if self._task(name).input != self._task(names[0]).input:
                raise ConfigError(
                    f"{self.run.folder}: tasks {names[0]!r} and {name!r} see their inputs in different ways: predict them "
                    "one after the other"
                )

    def _batch(
        self, chunk: Sequence[tuple[int, Any]], reader: Input, names: Sequence[str], several: bool
    ) -> Iterator[Result | DataError]:
        """Results of some inputs, those of one size in one pass."""
        found: dict[int, Result | DataError] = {}
        alike: dict[tuple[int, ...], list[tuple[int, Shown]]] = {}
        for number, item in chunk:
            try:
                shown = reader.show(item, _place(item, number))
            except DataError as error:
                found[number] = error
            else:
                alike.setdefault(tuple(shown.x.shape), []).append((number, shown))
        for group in alike.values():
            try:
                outputs = self.outputs(torch.stack([shown.x for _, shown in group]), names)
            except DataError as error:  # a size that the backbone cannot take
                found |= {n: DataError(f"{_place(dict(chunk)[n], n)}: {error}") for n, _ in group}
                continue
            for row, (number, shown) in enumerate(group):
                results = {str(name): self._result(name, output[row], shown) for name, output in outputs.items()}
                found[number] = results if several else next(iter(results.values()))
        return (found[number] for number, _ in chunk)

    @torch.no_grad()
    def outputs(self, x: torch.Tensor, names: Sequence[str] = ()) -> dict[str | None, torch.Tensor]:
        """The model's outputs, float32 on the CPU, of inputs that are ready (see `input`): {task: output (B, ...)}.

        Without names those over all classes of a run that tells no tasks apart, under None.
        """
        x = x.to(self.device)
        weights = [self._tasks[name].weights for name in names] or [self.manager.tasks[-1]]
        chosen = list(dict.fromkeys(weights))
        if x.ndim == 6:  # clips in several views
            views = x.unbind(1)
            found = self.manager.ensembled(
                lambda: {w: mean_of_views([self.manager(view, w) for view in views]) for w in chosen}
            )
        elif len(chosen) == 1:
            found = {chosen[0]: self.manager(x, chosen[0])}
        else:
            found = self.manager.forward_tasks(x, chosen)
        found = {weight: output.float().cpu() for weight, output in found.items()}
        if not names:
            return {None: found[weights[0]]}
        return {name: self._own(name, found[weight]) for name, weight in zip(names, weights, strict=True)}

    def _own(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """A task's part of the outputs: of a head that all tasks share, its own classes."""
        if self.scenario != CLASS:
            return output
        own: Any = self.manager.head(self._tasks[name].weights)
        classes = own.classes(self._tasks[name].weights)
        return output[:, classes.start : classes.stop]

    def _result(self, name: str | None, output: torch.Tensor, shown: Shown) -> Prediction:
        if name in self._kinds:
            return self._map(name, output, shown)
        classes = self._all_classes if name is None else self._tasks[name].classes
        if output.shape != (len(classes),):
            raise CheckpointError(f"{self._file} has {len(classes)} classes, the model gives {tuple(output.shape)}")
        return Classes(name, classes, output)

    @property
    def _all_classes(self) -> tuple[str, ...]:
        """Names of all classes of a run that tells no tasks apart, in the order of the outputs."""
        tasks = list(self._tasks.values())
        if self.scenario == DOMAIN:
            return tasks[0].classes
        return tuple(name for task in tasks for name in task.classes)

    def _map(self, name: str, output: torch.Tensor, shown: Shown) -> Map:
        """The output without what was padded."""
        assert shown.picture is not None and shown.window is not None
        top, left, height, width = shown.window
        rows, columns = shown.x.shape[-2:]
        whole = enlarge(output[None], (rows, columns))[0]
        small = whole[:, top : top + height, left : left + width].clone()  # not a view into the whole batch
        return Map(name, self._kinds[name], self._tasks[name].classes, small, shown.picture)


def _place(item: Any, number: int) -> str:
    """What an input is called in messages."""
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else f"input {number}"
