"""What happens around a step: learning rate, loss curve, evaluation, state on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mtpeft.runs.update import Recent

#: takes scalars by name, and the step they are of
Log = Callable[[dict[str, float | None], int], None]


@dataclass
class LossCurve:
    """The training loss of each task, averaged over the steps of a point that had it.

    `added`: the same of losses that weight sources add, whose names hold a slash.
    """

    every: int
    points: list[dict[str, Any]] = field(default_factory=list)
    pending: dict[str, list[float]] = field(default_factory=dict)
    added: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, losses: dict[str, float], last: bool) -> bool:
        """Losses of step `step` (from 1); returns whether a point was made."""
        for task, loss in losses.items():
            self.pending.setdefault(task, []).append(loss)
        if step % self.every and not last:
            return False
        for task, values in self.pending.items():
            place = self.added if "/" in task else self.points
            place.append({"task": task, "step": step, "loss": sum(values) / len(values)})
        self.pending = {}
        return True


@HOOKS.register_module(force=True)
class RateHook(Hook):
    """Sets the learning rate before a step."""

    priority = "VERY_HIGH"

    def __init__(self, set_rate: Callable[[Any, int], None]) -> None:
        """`set_rate(optimizer, step)`."""
        self.set_rate = set_rate

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """The rate of this step."""
        self.set_rate(runner.optim_wrapper.optimizer, batch_idx)


@HOOKS.register_module(force=True)
class EpochHook(Hook):
    """Tells the methods where an epoch ends: once as many samples were trained as the data sets have together."""

    priority = "HIGH"

    def __init__(self, samples: int, each_step: int, after_epoch: Callable[[], None]) -> None:
        """`samples` of all data sets, `each_step` of them in a step; `after_epoch()` is called before anything is measured."""
        self.samples, self.each_step, self.after_epoch = samples, each_step, after_epoch

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """The step with the last sample of an epoch."""
        before, now = (step * self.each_step // self.samples for step in (batch_idx, batch_idx + 1))
        if now > before:
            self.after_epoch()


@HOOKS.register_module(force=True)
class CurveHook(Hook):
    """Keeps the loss curve, and logs its points. Losses are read where a point is made."""

    priority = "NORMAL"

    def __init__(self, curve: LossCurve, recent: Recent, on_step: Callable[[dict[str, Any]], None], log: Log) -> None:
        """`on_step` is called after every step with the sampler's state from there on."""
        self.curve, self.recent, self.on_step, self.log = curve, recent, on_step, log

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One step."""
        step = batch_idx + 1
        if step % self.curve.every == 0 or step == runner.max_iters:
            self.read(step == runner.max_iters)
            recent = {f"loss/{p['task']}": p["loss"] for p in self._newest(step)}
            self.log({"rate": runner.optim_wrapper.optimizer.param_groups[0]["lr"], **recent}, step)
        self.on_step(data_batch["after"])

    def _newest(self, step: int) -> list[dict[str, Any]]:
        return [p for p in (*self.curve.points, *self.curve.added) if p["step"] == step]

    def read(self, last: bool = False) -> None:
        """Add the losses of the steps since the last call to the curve; `last`: no step follows.

        Raises `NonFiniteLossError`: nothing is measured or saved before this was called.
        """
        steps = self.recent.read()
        for position, (step, losses) in enumerate(steps, 1):
            self.curve.add(step, losses, last and position == len(steps))


@HOOKS.register_module(force=True)
class EvaluateHook(Hook):
    """Evaluates every `every` steps and after the last one."""

    priority = "LOW"

    def __init__(
        self, evaluate: Callable[[int], dict[str, Any]], every: int, check: Callable[[], None], log: Log
    ) -> None:
        """`evaluate(step)` gives an entry of the history; `every` 0: only after the last step; `check()` comes first."""
        self.evaluate, self.every, self.check, self.log = evaluate, every, check, log

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Evaluate where it is due."""
        step = batch_idx + 1
        if step == runner.max_iters or (self.every and step % self.every == 0):
            self.check()
            entry = self.evaluate(step)
            self.log({f"{t}/{m}": v for t, ms in entry["values"].items() for m, v in ms.items()}, step)


@HOOKS.register_module(force=True)
class StateHook(Hook):
    """Saves every `interval` steps and after the last; stops the loop when the run was asked to stop."""

    priority = "VERY_LOW"

    def __init__(
        self, save: Callable[[int], None], stopping: Callable[[], bool], interval: int, check: Callable[[], None]
    ) -> None:
        """`save(step)` after `check()`; `stopping()`: whether to stop here."""
        self.save, self.stopping, self.interval, self.check = save, stopping, interval, check

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save where it is due."""
        step = batch_idx + 1
        due = step % self.interval == 0 or step == runner.max_iters
        stopping = self.stopping()
        if due or stopping:
            self.check()
            self.save(step)
        if stopping and step < runner.max_iters:
            runner.train_loop.stop_training = True
