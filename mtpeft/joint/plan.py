"""What a plan (`mtpeft.runs.plan`) has to know of a joint run: its step, as the run's own model does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mtpeft.joint.data import Batch
from mtpeft.joint.experiment import JointExperiment
from mtpeft.joint.sampler import Draw
from mtpeft.joint.separate import separate_recipes
from mtpeft.manager.flops import count_flops
from mtpeft.manager.memory import measure_memory
from mtpeft.runs.comparison import comparison_rows
from mtpeft.runs.plan import Run, Seen, Watch, build

KEYS = ("data", "tasks")


def runs(recipe: dict[str, Any]) -> Iterator[Run]:
    """The run of a recipe, or of every row of a comparison and every task that is trained apart, built when asked for."""
    for row in comparison_rows(recipe) if "rows" in recipe else [None]:
        values = recipe if row is None else row.recipe
        for one in separate_recipes(values).values() if values.get("separate") else [values]:
            yield build(one, KEYS, _run)


def _run(recipe: dict[str, Any]) -> Run:
    experiment = JointExperiment(recipe)
    model, settings, data = experiment.model, experiment.training, experiment.data
    held = data.held
    evaluations = -(-settings.steps // settings.eval_every) if settings.eval_every else 1
    images = sum(map(len, data.val)) + sum(map(len, held))
    return Run(
        name=experiment.name,
        engine="joint",
        backbone=experiment.backbone_name,
        manager=experiment.manager,
        training=settings,
        device=experiment.device,
        parts=[_Step(experiment)],
        evaluated=evaluations * images,
        copies=2 if held else 1,
        trained=lambda part: [p for _, p in model.trained()],
        memories=lambda: measure_memory(
            experiment.manager,
            optimizer=settings.optimizer_of,
            autocast=experiment.optim_wrapper.update.autocast,
            shapes=data.shapes,
        ),
        weights=lambda: [*model.parameters(), *model.buffers()],
    )


class _Step:
    """The step of all tasks. Where a sample has one task, a step of the sizes measured has as many samples of each."""

    def __init__(self, experiment: JointExperiment) -> None:
        self.experiment = experiment
        settings, sampler = experiment.training, experiment.sampler
        self.tasks: Sequence[str] = list(experiment.model.kinds)
        own = sampler.name != "all"
        unit = len(self.tasks) if own else 1
        self.sizes: tuple[int, int] = (2 * unit, 3 * unit)
        self.steps: int | None = settings.steps
        self.epoch: int | None = -(-sum(sampler.sizes) // (settings.batch_size * settings.accumulate))
        self._turns: list[tuple[int, tuple[str, ...]]] = [(sampler.sources[task], (task,)) for task in self.tasks]
        if not own:
            self._turns = [(s, experiment.data.tasks_of(s)) for s in range(len(sampler.sizes))]

    def read(self, samples: int) -> Batch:
        sizes, turns = self.experiment.sampler.sizes, self._turns
        draws = []
        for i in range(samples):
            source, tasks = turns[i % len(turns)]
            draws.append(Draw(source, 0, i // len(turns) % sizes[source], tuple(tasks)))
        return self.experiment.data.batch(draws)

    def train(self, batches: Sequence[Batch], watches: Sequence[Watch]) -> Seen:
        experiment = self.experiment
        model, seen = experiment.model, Seen()
        model.train()
        for batch, watch in zip(batches, watches, strict=True):
            parts = [{**batch, "labels": dict(batch["labels"])} for _ in range(experiment.training.accumulate)]
            with watch:
                losses = model.train_step({"parts": parts}, experiment.optim_wrapper)
            seen = Seen(tuple(batch["images"].shape), losses={task: float(loss) for task, loss in losses.items()})
        with torch.no_grad():
            shown = batches[-1]["images"][:1].to(experiment.device)
            outputs = model(shown, mode="predict")
        seen.outputs = {task: (seen.input[0], *output.shape[1:]) for task, (_, output) in outputs.items()}
        return seen

    def evaluate(self, samples: int) -> int:
        model, data, predicted = self.experiment.model.eval(), self.experiment.data, 0
        measures = {task: kind.measure() for task, kind in model.kinds.items()}
        for source, view in enumerate(data.val):
            indices = range(min(samples, len(view)))
            for batch in data.batches("val", source, indices, samples):
                labels = {t: (r, y.to(self.experiment.device)) for t, (r, y) in batch["labels"].items() if len(r)}
                with torch.no_grad():
                    found = model.outputs(
                        batch["images"].to(self.experiment.device), {t: r for t, (r, _) in labels.items()}
                    )
                for task, (_, output) in found.items():
                    measures[task].update(output.float(), labels[task][1])
                predicted += len(batch["images"])
        for measure in measures.values():
            measure.compute()
        return predicted

    def flops(self) -> int:
        return int(count_flops(self.experiment.manager)["total"])
