"""What a run will need, before it runs: a few steps as the run does them, and what follows from them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import torch

from mtpeft.data.made_up import counted, made_up, offline
from mtpeft.data.manifest import nothing_made
from mtpeft.errors import DataError
from mtpeft.manager.counting import backbone_size
from mtpeft.manager.manager import TaskManager
from mtpeft.manager.memory import Memory, backbone_bytes, optimizer_bytes, tensor_bytes
from mtpeft.runs.machine_memory import free_bytes
from mtpeft.runs.step_memory import StepMemory, at_batch
from mtpeft.runs.training import Training

#: timed steps
TIMED = 3
#: items of a class that are made up at least, and items of the test part that are timed at most
SOME = 4
#: bytes of report.html, nearly all of it the library that draws its charts
REPORT = 5 * 2**20

Plan = dict[str, Any]
Watch = AbstractContextManager[Any]


@dataclass
class Seen:
    """What a training step showed: the shape of its input, those of the outputs, and the losses, by task."""

    input: tuple[int, ...] = ()
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)


class Part(Protocol):
    """One kind of training step of a run.

    `tasks` are trained by such steps, `steps` of them in the whole run and `epoch` in one pass over the training data (None
    where that depends on files that are not there). `sizes` are two small numbers of samples a step can have, from 2 on.
    """

    tasks: Sequence[str]
    steps: int | None
    epoch: int | None
    sizes: tuple[int, int]

    def read(self, samples: int) -> Any:
        """The samples of a batch, from the training data."""

    def train(self, batches: Sequence[Any], watches: Sequence[Watch]) -> Seen:
        """A training step on each batch, inside the watch of its place; what the last one showed."""

    def evaluate(self, samples: int) -> int:
        """Read and predict up to `samples` of the test part; how many."""

    def flops(self) -> int:
        """Operations of one sample's forward pass."""


@dataclass
class Run:
    """What an engine knows of a run: `evaluated` samples are predicted in all (None: not known), `trained` the weights
    that the optimiser of a step has, `weights` all tensors that stay in memory, `copies` of the trained weights that are
    left on disk besides the checkpoint, `plugins` what may do more than the steps here, `cache` whether the recipe asks for
    a feature cache, which is left out here."""

    name: str
    engine: str
    backbone: str
    manager: TaskManager
    training: Training
    device: torch.device
    parts: Sequence[Part]
    evaluated: int | None
    copies: int
    trained: Callable[[Part], list[torch.nn.Parameter]]
    memories: Callable[[], dict[str, Memory]]
    weights: Callable[[], list[torch.Tensor]]
    finish: Callable[[], None] = lambda: None
    plugins: Sequence[str] = ()
    made_up: str = ""
    cache: bool = False


def build(recipe: Mapping[str, Any], keys: Sequence[str], make: Callable[[dict[str, Any]], Run]) -> Run:
    """The run of a recipe with random weights, on its own data where they are there, else on made-up ones.

    `keys` of the recipe describe data. Nothing is written. Raises what `make` does; `DataError` for data that are not
    there and cannot be made up.
    """
    values = {key: value for key, value in recipe.items() if key != "cache"}  # a feature cache is filled on disk
    if isinstance(backbone := values.get("backbone"), Mapping):
        values["backbone"] = {**backbone, "pretrained": False}
    if isinstance(training := values.get("training"), Mapping) and training.get("compile"):
        values["training"] = {**training, "compile": False}  # operations are watched one by one
    data = {key: offline(values[key]) for key in keys if key in values}
    changed = data
    with nothing_made():
        try:
            run = make({**values, **data})
        except DataError as error:
            changed = made_up(data, SOME)
            if changed == data:
                raise
            run = make({**values, **changed})
            run.made_up = str(error)
    run.cache = recipe.get("cache") is not None
    if not counted(changed):
        run.evaluated = None
        for part in run.parts:
            part.steps = part.epoch = None
    return run


def measure(run: Run, seconds: float | None) -> Plan:
    """The plan of a run, as plain types (see `mtpeft plan --help`). `seconds` is what timed steps may take; None: none.

    Its steps are those of a run whose methods have seen the data they are fitted to; here they have not.
    """
    with run.manager.runtime.trials():
        return _measured(run, seconds)


def _measured(run: Run, seconds: float | None) -> Plan:
    batch, training = run.training.batch_size, run.training
    weights = tensor_bytes(run.weights())
    parts = [_measure_part(run, part, weights, seconds) for part in run.parts]
    run.finish()
    weights, memories = tensor_bytes(run.weights()), run.memories()
    largest = max(parts, key=lambda part: part["memory"]["peak"])["memory"]
    checkpoint = tensor_bytes(run.manager.trained_state().values())
    model = checkpoint
    checkpoint += max(part["memory"]["optimizer"] for part in parts)
    steps = [part["steps"] for part in parts]
    return {
        "name": run.name,
        "engine": run.engine,
        "backbone": run.backbone,
        "input": list(run.manager.anatomy.input_size),
        "device": str(run.device),
        "precision": training.amp or "float32",
        "made_up": run.made_up or None,
        "plugins": list(run.plugins),
        "cache_left_out": run.cache,
        "batch_size": batch,
        "accumulate": training.accumulate,
        "optimizer": training.optimizer["type"],
        "weights": {"backbone": backbone_size(run.manager), "trained": run.manager.num_trainable()},
        "tasks": {
            task: {"trained": run.manager.num_trainable(task), "bytes": dataclasses.asdict(memory)}
            for task, memory in memories.items()
        },
        "parts": parts,
        "steps": None if None in steps else sum(steps),
        "memory": {
            **largest,
            "weights": weights,
            "backbone": backbone_bytes(run.manager),
            "free": free_bytes(run.device),
        },
        "seconds": _seconds(run, parts) if seconds is not None else None,
        "disk": {"checkpoint": checkpoint, "model": model, "run": 2 * checkpoint + run.copies * model + REPORT},
    }


def _measure_part(run: Run, part: Part, weights: int, seconds: float | None) -> Plan:
    """Shapes, memory and, where `seconds` are given, time of one kind of step."""
    batch = run.training.batch_size
    sizes = part.sizes if batch >= part.sizes[1] else (batch,)
    watches: list[StepMemory] = [StepMemory() for _ in sizes]
    batches = {size: part.read(size) for size in sizes}
    order = [sizes[0], *reversed(sizes)]
    seen = part.train([batches[size] for size in order], [nullcontext(), *reversed(watches)])
    peak, saved = at_batch(batch, sizes, watches)
    trained = run.trained(part)
    optimizer = optimizer_bytes(trained, run.training.optimizer_of)
    inputs = 4 * batch * torch.Size(seen.input[1:]).numel()
    memory = {
        "activations": saved,
        "gradients": tensor_bytes(trained),
        "optimizer": optimizer,
        "peak": weights + optimizer + inputs + peak,
    }
    found = {
        "tasks": list(part.tasks),
        "input": list(seen.input),
        "outputs": {task: list(shape) for task, shape in seen.outputs.items()},
        "losses": seen.losses,
        "flops": part.flops(),
        "steps": part.steps,
        "epoch_steps": part.epoch,
        "memory": memory,
        "seconds": None,
    }
    if seconds is not None:
        found["seconds"] = _time(run, part, memory["peak"] / batch, sizes[-1], seconds)
    return found


def _time(run: Run, part: Part, per_sample: float, known: int, seconds: float) -> Plan:
    """Seconds of a step at the recipe's batch: measured there, or on as many samples as time and memory allow."""
    batch, workers = run.training.batch_size, run.training.workers
    clock = Stopwatch(run.device)
    part.train([part.read(known)] * 2, [nullcontext(), clock])
    samples = batch
    if clock.times[0] * (TIMED + 1) * batch / known > seconds:
        samples = max(known, int(seconds / (TIMED + 1) * known / clock.times[0]))
    free = free_bytes(run.device)
    if free is not None:
        samples = max(known, min(samples, int(free / per_sample)))
    unit = part.sizes[1] - part.sizes[0]
    samples = batch if samples >= batch else max(known, samples // unit * unit)
    reading = Stopwatch(torch.device("cpu"))
    with reading:
        read = part.read(samples)
    clock = Stopwatch(run.device)
    peak = _cuda_peak(run.device)
    part.train([read] * (TIMED + 1), [nullcontext(), *[clock] * TIMED])
    factor, compute = batch / samples, statistics.median(clock.times)
    if samples < batch:  # a part of a step's time is the same for any number of samples
        few, less = part.sizes[0], Stopwatch(run.device)
        part.train([part.read(few)] * (TIMED + 1), [nullcontext(), *[less] * TIMED])
        each = (compute - statistics.median(less.times)) / max(samples - few, 1)
        compute += (batch - samples) * min(max(each, 0.0), compute / samples)
    read_seconds = reading.times[0] * factor * run.training.accumulate
    step = max(compute, read_seconds / workers) if workers else compute + read_seconds
    evaluating = Stopwatch(run.device)
    part.evaluate(1)  # whatever happens at the first call only
    with evaluating:
        predicted = part.evaluate(SOME)
    return {
        "samples": samples,
        "compute": compute,
        "read": read_seconds,
        "step": step,
        "epoch": None if part.epoch is None else step * part.epoch,
        "predict": evaluating.times[0] / predicted,
        "peak_bytes": peak() if samples == batch else None,
    }


def _cuda_peak(device: torch.device) -> Callable[[], int | None]:
    """What gives the peak of a GPU's memory from now on; nothing on other devices, which do not count."""
    if device.type != "cuda":
        return lambda: None
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device)


def _seconds(run: Run, parts: Sequence[Plan]) -> Plan:
    """Of the whole run: its steps, and the predictions of its evaluations."""
    training = None
    if all(part["steps"] is not None for part in parts):
        training = sum(part["steps"] * part["seconds"]["step"] for part in parts)
    predict = statistics.mean(part["seconds"]["predict"] for part in parts)
    evaluation = None if run.evaluated is None else run.evaluated * predict
    whole = None if training is None or evaluation is None else training + evaluation
    return {"training": training, "evaluation": evaluation, "run": whole}


class Stopwatch:
    """The wall time of each pass through it; work on a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, list[float]()
        self._start = 0.0

    def __enter__(self) -> None:
        self._wait()
        self._start = perf_counter()

    def __exit__(self, *error: Any) -> None:
        self._wait()
        self.times.append(perf_counter() - self._start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
