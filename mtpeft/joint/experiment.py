"""A joint run from recipe to results: builds, trains through MMEngine's Runner, evaluates, saves, resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtpeft.dense.kinds import Kind
from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.evaluation.results import write
from mtpeft.evaluation.run_facts import device_name, memory_facts, run_facts
from mtpeft.joint import evaluation
from mtpeft.joint.built import Built
from mtpeft.joint.conflict import gradient_conflict
from mtpeft.joint.data import build_loader
from mtpeft.joint.hooks import CurveHook, EpochHook, EvaluateHook, LossCurve, RateHook, StateHook
from mtpeft.joint.loop import build_runner
from mtpeft.joint.pictures import FOLDER, write_pictures
from mtpeft.joint.summary import model_tasks, summarise
from mtpeft.runs.distributed import any_of, average_buffers, first
from mtpeft.runs.feature_cache import cache_facts, fill
from mtpeft.runs.fitting import fit_task
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.machine import described, matrix_products
from mtpeft.runs.model_folder import BEST, MODEL, ModelTasks, save_model
from mtpeft.runs.progress import Progress
from mtpeft.runs.update import NonFiniteLossError


class JointExperiment(Built):
    """A recipe, built; `run` trains it to the end, from wherever the folder's checkpoint stands."""

    def __init__(self, recipe: dict[str, Any], progress: Progress | None = None) -> None:
        """Build it. Raises `ConfigError` and `DataError` naming recipe and key."""
        super().__init__(recipe, progress)
        self.curve = LossCurve(self.training.log_every)
        self.sampled: dict[str, Any] = self.sampler.state
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    # running ------------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Train to the end and write results; returns them, or None when `stop` said to stop (the state is saved).

        The processes that do not write (`RunFolder.writes`) return None, too.
        """
        self.folder, self.stop = folder, stop
        self.progress.message(described(self.device))
        state = first(folder.saved())
        try:
            self._begin(state)
            with matrix_products(self.training, self.device, self.progress.message):
                if (begun := self.model.step) < self.training.steps:
                    self._train(begun)
                if self.model.step < self.training.steps:
                    return None
                return self._finish() if folder.writes else None
        except NonFiniteLossError as error:
            raise NonFiniteLossError(self._explain(error)) from None
        finally:
            self.logs.close()

    def _begin(self, state: Mapping[str, Any] | None) -> None:
        """From the beginning, or from `state`: the folder, what is said, the feature cache."""
        if state is None:
            self.data.check_first()
        else:
            self.restore(state)
        folder, step = self.folder, self.model.step
        folder.open()
        for line in folder.told:
            self.progress.message(line)
        folder.accept(step)
        facts = {"recipe": self.name, "seed": self.seed, "step": step, "device": device_name(self.device)}
        folder.log("start" if state is None else "resume", **facts)
        self.logs.open(folder.path)
        if self.features is not None:
            folder.log("features", **fill(self.features, self.data.all_views, self.progress, self.training.workers))
        if state is None and self._fit():
            self.save(0)
        if state is not None:
            self.progress.message(f"resuming at step {step + 1} of {self.training.steps}")
        if self.model.needs_two and not self.manager.single_pass:
            self.progress.message(
                f"batch norm of {', '.join(sorted(self.model.needs_two))} needs two images of the task: a sample that is alone "
                "in a batch is skipped, and counted"
            )
        self.progress.stage("training", self.training.steps - step)

    def _fit(self) -> bool:
        """Show the methods that ask for it every task's training images; whether there were any."""
        fitted = False
        for task, kind in self.model.kinds.items():
            data = partial(self.data.plain_batches, task, self.training.batch_size)
            loss = partial(_loss, kind)
            fitted |= fit_task(self.manager, task, data, loss, self.progress.message)
        return fitted

    def _train(self, begun: int) -> None:
        curve = CurveHook(self.curve, self.model.recent, self._after_step, self.logs.add)
        sampler = self.sampler
        hooks = [
            RateHook(lambda optimizer, step: self.training.set_rate(optimizer, step, self.training.steps)),
            EpochHook(sampler.starts[-1], sampler.batch_size * sampler.parts, self.manager.after_epoch),
            curve,
            EvaluateHook(self.evaluate, self.training.eval_every, curve.read, self.logs.add),
            StateHook(self.save, self.stopping, self.interval, curve.read),
        ]
        with TemporaryDirectory() as nowhere:  # for the processes that do not write
            runner = build_runner(
                model=self.model,
                loader=build_loader(self.data, self.sampler, self.training.workers, self.device),
                optim_wrapper=self.optim_wrapper,
                hooks=hooks,
                steps=self.training.steps,
                start=begun,
                work_dir=self.folder.path / "mmengine" if self.folder.writes else Path(nowhere),
                seed=self.seed,
            )
            runner.train()

    def _after_step(self, sampled: dict[str, Any]) -> None:
        self.sampled = sampled
        self.progress.step()

    def _explain(self, error: NonFiniteLossError) -> str:
        """One line for the user: what happened where, what is left, what to do."""
        state = self.folder.saved()
        kept = "there is no checkpoint yet" if state is None else f"the checkpoint of step {state['step']} is kept"
        return f"{error}; {kept}: lower training.optimizer.lr or set training.clip"

    def stopping(self) -> bool:
        """Whether to stop after this step: all processes, when one of them is asked to."""
        return any_of(self.stop())

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluate on the test part; an entry of the history.

        Where there are validation data, those held out of the training part, keeps the weights with the best delta on them.
        """
        self.progress.message(f"step {step}: evaluating")
        average_buffers(self.model.buffers())
        values = evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device)
        delta = evaluation.delta(self.model, values, self.single_task)
        entry = {"step": step, "values": values, "delta": delta}
        if self.data.held:
            held = evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device, "held")
            entry["validation_delta"] = self._keep_best(step, evaluation.delta(self.model, held, self.single_task))
        self.history.append(entry)
        self.folder.log("evaluate", step=step, main=evaluation.main_values(self.model, values), delta=delta)
        return entry

    @property
    def model_tasks(self) -> ModelTasks:
        """What the outputs of the model mean, kept beside its weights."""
        return model_tasks(self.data)

    def _keep_best(self, step: int, delta: float | None) -> float | None:
        if delta is not None and (self.best is None or delta > self.best["delta"]):
            self.best = {"step": step, "delta": delta}
            if self.folder.writes:
                save_model(self.manager, self.folder.path / BEST, self.model_tasks)
        return delta

    def _finish(self) -> dict[str, Any]:
        if not self.manager.own_weights and not self.manager.backbone_unchanged():
            raise MtpeftError("the frozen backbone changed while the tasks were trained; results are not written")
        self.progress.stage("pictures, gradients, operations", 0)
        size = self.training.eval_batch_size
        if self.pictures:
            write_pictures(self.model, self.data, self.folder.path / FOLDER, self.pictures, size, self.device)
        conflict = None
        if self.conflict_batches:
            size = self.training.batch_size
            conflict = gradient_conflict(self.model, self.data, size, self.conflict_batches, self.device)
        save_model(self.manager, self.folder.path / MODEL, self.model_tasks)
        results = {
            **run_facts(self),
            **self.folder.facts,
            **cache_facts(self.features, sum(len(view) for view in self.data.all_views)),
            **summarise(self.model, self.data, self.history),
            "memory": memory_facts(self, self.data.shapes),
            "single_task": self.single_task,
            "best": self.best,
            "gradient_conflict": conflict,
            "pictures": FOLDER if self.pictures else None,
        }
        write(self.folder.results, results)
        self.folder.log("done")
        return results

    # state --------------------------------------------------------------------------------------------------------

    def save(self, step: int) -> None:
        """Write everything needed to go on after `step` steps; the first process does."""
        if not self.folder.writes:
            return
        state = {
            "step": step,
            "weights": self.manager.trained_state(),
            "weighting": self.model.weighting.state(),
            "update": self.optim_wrapper.update.state(),
            "sampler": self.sampled,
            "curve": vars(self.curve),
            "history": self.history,
            "best": self.best,
            "skipped": self.model.skipped,
            "logs": self.logs.state(),
        }
        self.folder.state.write(state)
        self.logs.send()
        self.folder.log("checkpoint", step=step, steps=self.training.steps)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `save` wrote."""
        self.model.step = state["step"]
        self.manager.load_state_dict(state["weights"], strict=False)
        self.model.weighting.load(state["weighting"])
        self.optim_wrapper.update.restore(state["update"])
        self.sampler.state = self.sampled = state["sampler"]
        self.curve = LossCurve(**{**state["curve"], "every": self.training.log_every})
        self.history, self.best, self.model.skipped = state["history"], state["best"], state["skipped"]
        self.logs.restore(state.get("logs"))

    def evaluate_final(self, folder: RunFolder) -> evaluation.Values:
        """The final values, measured again on the state a finished run left."""
        state = folder.state.read()
        if state is None or state["step"] != self.training.steps:
            raise ConfigError(f"{folder.path} has no saved state of a finished run")
        self.restore(state)
        with matrix_products(self.training, self.device, self.progress.message):
            return evaluation.evaluate(self.model, self.data, self.training.eval_batch_size, self.device)


def _loss(kind: Kind, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A kind's loss of a batch, in full precision."""
    return kind.loss(output.float(), labels)
