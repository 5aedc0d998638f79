"""What happens around a step: learning rate, loss curve, evaluation, state on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

if TYPE_CHECKING:
    from mtpeft.joint.experiment import JointExperiment


@dataclass
class LossCurve:
    """The training loss of each task, averaged over the steps of a point that had it."""

    every: int
    points: list[dict[str, Any]] = field(default_factory=list)
    pending: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, losses: dict[str, float], last: bool) -> bool:
        """Losses of step `step` (from 1); returns whether a point was made."""
        for task, loss in losses.items():
            self.pending.setdefault(task, []).append(loss)
        if step % self.every and not last:
            return False
        for task, values in self.pending.items():
            self.points.append({"task": task, "step": step, "loss": sum(values) / len(values)})
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
class CurveHook(Hook):
    """Keeps the loss curve, and gives its points to MMEngine's visualiser."""

    priority = "NORMAL"

    def __init__(self, experiment: JointExperiment) -> None:
        """The run that owns the curve."""
        self.experiment = experiment

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One step."""
        step, curve = batch_idx + 1, self.experiment.curve
        if curve.add(step, outputs, last=step == runner.max_iters):
            recent = {f"loss/{p['task']}": p["loss"] for p in curve.points if p["step"] == step}
            runner.visualizer.add_scalars(
                {"rate": runner.optim_wrapper.optimizer.param_groups[0]["lr"], **recent}, step
            )
        self.experiment.sampled = data_batch["after"]
        self.experiment.progress.step()


@HOOKS.register_module(force=True)
class EvaluateHook(Hook):
    """Evaluates every `every` steps and after the last one."""

    priority = "LOW"

    def __init__(self, experiment: JointExperiment, every: int) -> None:
        """`every` 0: only after the last step."""
        self.experiment, self.every = experiment, every

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Evaluate where it is due."""
        step = batch_idx + 1
        if step == runner.max_iters or (self.every and step % self.every == 0):
            entry = self.experiment.evaluate(step)
            scalars = {f"{t}/{m}": v for t, ms in entry["values"].items() for m, v in ms.items() if v is not None}
            runner.visualizer.add_scalars(scalars, step)


@HOOKS.register_module(force=True)
class StateHook(Hook):
    """Saves every `interval` steps and after the last; stops the loop when the run was asked to stop."""

    priority = "VERY_LOW"

    def __init__(self, experiment: JointExperiment, interval: int) -> None:
        """The run that is saved."""
        self.experiment, self.interval = experiment, interval

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save where it is due."""
        step = batch_idx + 1
        due = step % self.interval == 0 or step == runner.max_iters
        stopping = self.experiment.stopping(due)
        if due or stopping:
            self.experiment.save(step)
        if stopping and step < runner.max_iters:
            runner.train_loop.stop_training = True
