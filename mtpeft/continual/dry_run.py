"""A dry run: everything a recipe names is built and trained for one step, without video files, weights or a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtpeft.continual.built import Built
from mtpeft.continual.command import made_up, rows_of
from mtpeft.continual.training import Training
from mtpeft.data.dense.stream import DenseStream
from mtpeft.data.sources import dataset_options
from mtpeft.data.video.clips import is_video
from mtpeft.manager.flops import forward_flops
from mtpeft.options import Section
from mtpeft.printing import print_text
from mtpeft.runs.console import open_console

#: samples of the step at most: shapes, counts and FLOPs of one sample do not depend on it, time and memory do
SAMPLES = 2


def dry_run(recipe: dict[str, Any]) -> int:
    """Print, for a recipe or every row of a comparison, shapes, trained weights, a step's loss, and FLOPs.

    Noise stands for the clips of video data sets, and for published images that are not there, random weights for
    pre-trained ones; other images are read as in a run.
    Raises as a run does for a recipe that cannot be.
    """
    console = open_console()
    for row in rows_of(recipe):
        _describe(row.recipe, Built(without_files(row.recipe)), console)
    return 0


def without_files(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with made-up videos, random weights, and a batch of `SAMPLES`, read in this process."""
    section = Section(recipe, str(recipe["name"])).section("training")
    training = dict(section.values)
    Training.read(section)  # as the recipe has it: the batch is changed below
    values = dict(recipe)
    if isinstance(backbone := values.get("backbone"), Mapping):
        values["backbone"] = {**backbone, "pretrained": False}
    stream = values.get("stream")
    needed = max([SAMPLES, *_per_class(stream)])
    values["stream"] = _made_up(stream, needed)
    values["training"] = {**training, "batch_size": min(SAMPLES, _batch_size(training)), "workers": 0}
    return values


def _batch_size(training: Mapping[str, Any]) -> int:
    return training.get("batch_size", Training.batch_size)


def _made_up(value: Any, per_class: int) -> Any:
    """`value` with `generated` in every mapping that names a video data set, or one of images whose folder is not there."""
    if not isinstance(value, Mapping):
        return value
    changed = {key: _made_up(inner, per_class) for key, inner in value.items()}
    absent = "generated" in dataset_options(str(value.get("type"))) and not Path(str(value.get("root"))).is_dir()
    return {**changed, "generated": per_class} if is_video(value) or absent else changed


def _per_class(value: Any) -> Iterator[int]:
    """How many videos of a class the stream keeps."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key in ("train_per_class", "test_per_class") and isinstance(inner, int):
            yield inner
        yield from _per_class(inner)


def _describe(recipe: Mapping[str, Any], experiment: Built, console: Console) -> None:
    def show(text: str) -> None:
        print_text(console, text)

    size = " x ".join(map(str, experiment.manager.anatomy.input_size))
    data = "made-up data and " if made_up(experiment.recipe["stream"]) else ""
    show(f"{experiment.name}: a dry run with {data}random weights, without a run folder")
    show(f"backbone: {experiment.backbone_name}, frames or images of {size}")
    batch = _batch_size(recipe.get("training", {}))
    show(f"stream: {experiment.stream.kind}, {len(experiment.stream)} task(s)")
    for index in _different(experiment):
        x, output, loss = _step(experiment, index)
        flops = forward_flops(experiment.manager, x[:1], experiment.model.task_of(index))
        one = "clip" if x.ndim == 5 else "image"
        show(f"{experiment.stream[index].name}: input {tuple(x.shape)}, {len(x)} of a batch of {batch}")
        show(f"  output {tuple(output.shape)}; loss {loss:.4f}; {flops / 1e9:.4g} GFLOPs for one {one} forward")
    console.print(experiment.manager.table(console.width), highlight=False, soft_wrap=True, markup=False)


def _different(experiment: Built) -> list[int]:
    """The first experience of each kind: those of one data set and one head differ in their classes alone."""
    stream = experiment.stream
    if isinstance(stream, DenseStream):
        return list(range(len(stream)))
    first: dict[str, int] = {}
    for index, (task, (_, head)) in enumerate(zip(stream, experiment.model.experiences, strict=True)):
        shown = {key: value for key, value in head.items() if key != "num_classes"}
        first.setdefault(repr((type(task.train).__name__, task.train.describe(), shown)), index)
    return list(first.values())


def _step(experiment: Built, index: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """One step of experience `index` as a run does it: its input, output and loss."""

    def stop() -> None:
        raise _Done

    strategy = experiment.strategy
    strategy.on_step = stop
    with suppress(_Done):
        strategy.train_experience(index)
    return strategy.mb_x, strategy.mb_output, strategy.loss.item()


class _Done(Exception):
    """Raised out of the training loop after the first step."""
