"""A continual run from recipe to results: builds, trains experience by experience, evaluates, saves, resumes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mtpeft.continual.built import Built
from mtpeft.continual.clip_files import ClipFiles
from mtpeft.continual.growth import earlier_run
from mtpeft.continual.inputs import shapes_of, tasks_of
from mtpeft.continual.plugins import foreign, plugin_states, restore_plugins
from mtpeft.continual.progress import Curve, Measured, Position
from mtpeft.continual.strips import PICTURES, write_strips
from mtpeft.continual.summary import model_tasks, summarise
from mtpeft.data.streams import TASK_KNOWN, Stream
from mtpeft.errors import ConfigError, MtpeftError
from mtpeft.evaluation.baselines import frozen_baselines, frozen_features
from mtpeft.evaluation.matrix import AccuracyMatrix
from mtpeft.evaluation.results import write
from mtpeft.evaluation.run_facts import device_name, memory_facts, run_facts
from mtpeft.runs.device import AUTO, usable_device
from mtpeft.runs.distributed import any_of, first, start
from mtpeft.runs.fitting import fit_task
from mtpeft.runs.folder import RunFolder
from mtpeft.runs.machine import described, matrix_products
from mtpeft.runs.model_folder import MODEL, save_model
from mtpeft.runs.progress import Progress
from mtpeft.runs.randomness import random_state, set_random_state
from mtpeft.runs.state import Parts


class Experiment(Built):
    """A recipe, built; `run` trains it to the end, from wherever the folder's checkpoint stands.

    Of several processes (torchrun) each has one, and all run it; the first one writes.
    """

    def __init__(self, recipe: dict[str, Any], progress: Progress | None = None) -> None:
        """Build it. Raises `ConfigError` and `DataError` naming recipe and key."""
        start(usable_device(recipe.get("device", AUTO), recipe["name"]))
        super().__init__(recipe, progress)
        self._saved = False  # whether everything was saved once
        self.files = ClipFiles(self.stream)
        self.curve = Curve(self.training.log_every)
        self.position = Position()
        self.evaluations = 0

    # running ------------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Train to the end and write results; returns them, or None when `stop` said to stop (the state is saved).

        The processes that do not write (`RunFolder.writes`) return None, too.
        More epochs than the folder's run had are those of the experiences it has not finished; of a run that has finished,
        its last experience goes on, with a new optimiser. The schedule is that of the new number of epochs.
        """
        self.folder, self.stop = folder, lambda: any_of(stop())
        self.progress.message(described(self.device))
        state = first(folder.saved())
        try:
            with matrix_products(self.training, self.device, self.progress.message):
                if state is None:
                    self._start()
                else:
                    self._resume(state)
                for index in range(self.position.experience, len(self.stream)):
                    self._train_experience(index, state)
                    state = None
                    if self.stop():
                        return None
                return self._finish() if folder.writes else None
        except _Stopped:
            return None
        finally:
            self.logs.close()

    def _start(self) -> None:
        """From the beginning, or from the end of the run that tasks are added to."""
        folder, stream, earlier = self.folder, self.stream, None
        if folder.longer and folder.results.is_file():
            raise ConfigError(
                f"{folder.path}: the run cannot go on, the state of one of its plugins was not kept; give another --out"
            )
        if self.continue_from is not None:
            earlier = earlier_run(self.continue_from, self.recipe, stream, self.manager, self.data_config)
            step, names = earlier.state["curve"]["step"], list(stream.task_names)
            added = {"step": step, "key": "stream.tasks", "old": names[: earlier.tasks], "new": names}
            folder.continued = [*earlier.continued, added]
        folder.open()
        folder.accept(0)
        self.logs.open(folder.path)
        folder.log("start", recipe=self.name, seed=self.seed, device=device_name(self.device))
        if self.granularity == "none":
            self.progress.message(
                "no checkpoints: the state of one of the plugins is not known; a kill starts the run again"
            )
        self._fill()
        self._before_training(0 if earlier is None else earlier.tasks)
        if earlier is not None:
            fresh, samples = self.measured, [len(task.test) for task in stream]
            self.measured = Measured(AccuracyMatrix(fresh.matrix.tasks), [], fresh.single_task)
            self._restore_progress(earlier.state)
            self.measured.grow(fresh, earlier.tasks, samples if self.carried else None)
            self._saved = False  # not in this folder
            self.progress.message(f"{earlier.tasks} tasks are those of {self.continue_from}")
        self._save()

    def _resume(self, state: dict[str, Any]) -> None:
        folder = self.folder
        again = state["position"]["experience"] == len(self.stream) and state["epochs"] < self.training.epochs
        if again and foreign(self.strategy.plugins):
            names = ", ".join(type(plugin).__name__ for plugin in foreign(self.strategy.plugins))
            raise ConfigError(
                f"{folder.path}: the run has finished, and its plugins ({names}) have closed the last task"
            )
        if again and self.model.learns_classes and not self.model.classes_again:
            raise ConfigError(
                f"{folder.path}: the run has finished, and its classifier cannot learn the last task again"
            )
        for line in folder.told:
            self.progress.message(line)
        folder.accept(state["curve"]["step"])
        self.logs.restore(state.get("logs"))
        self.logs.open(folder.path)
        self._restore_progress(state)
        if again:
            self.position = Position(len(self.stream) - 1, state["epochs"])
        folder.log("resume", **vars(self.position), device=device_name(self.device))
        self._fill()
        self.progress.message(f"resuming at experience {self.position.experience + 1}, epoch {self.position.epoch + 1}")

    def _fill(self) -> None:
        """Compute the rows of the feature cache that are missing."""
        if (filled := self.features.fill(self.progress, self.training.workers)) is not None:
            self.folder.log("features", **filled)

    def _before_training(self, tasks: int) -> None:
        """Measure what there is to measure before; of the untrained model on all but the first `tasks`."""
        self.progress.stage("baselines", 0)
        if self.with_baselines:
            assert isinstance(self.stream, Stream)
            features = frozen_features(self.manager, self.device)
            found = frozen_baselines(self.stream, features, self.training.eval_batch_size)
            self.measured.baselines = {
                name: {"values": [100.0 * b.per_task[t.name] for t in self.stream]} for name, b in found.items()
            }
        if self.stream.kind != "class_incremental":
            if tasks and not self.manager.isolated:
                self._fit(0)  # shared weights are those of a run that had all tasks from the start
            for j in range(tasks, len(self.stream)):
                self._fit(j if self.stream.kind in TASK_KNOWN else 0)
                self.measured.reference[j] = self._measure(j)[0]

    def _fit(self, index: int) -> None:
        """Show the methods that ask for it the training images of experience `index`, whose weights are not used before."""
        if not any(attachment.asks for attachment in self.manager.methods):
            return
        if self.stream.kind == "class_incremental":  # else its weights are there, and it has not begun
            self.model.begin(index)
        data = partial(self.strategy.plain_batches, self.stream[index].train)
        loss = self.strategy.objectives[index].loss
        fit_task(self.manager, self.model.task_of(index), data, loss, self.progress.message)

    def _train_experience(self, index: int, state: Any | None) -> None:
        task = self.stream[index]
        self._fit(index)
        name = task.name
        steps = -(-self.strategy.epoch_batches(index) // self.training.accumulate) * self.training.epochs
        if self.strategy.needs_two[index] and len(task.train) % self.training.batch_size == 1:
            self.folder.log("joined", task=name, images=1)
            self.progress.message(f"task {name!r}: a last batch of one image is joined to the one before (batch norm)")
        self.progress.stage(f"{name} ({index + 1} of {len(self.stream)})", steps)
        self.position = Position(index, self.position.epoch, self.position.batch) if state else Position(index)
        strategy = self.strategy

        def on_step() -> None:
            self.progress.step()
            self._after_step(index)

        def on_losses(losses: list[float]) -> None:
            for loss in losses:
                if self.curve.add(name, loss):
                    self._log_loss(name)

        strategy.on_step, strategy.on_losses = on_step, on_losses
        resume = None if state is None else (lambda: self._restore_training(state))
        strategy.train_experience(index, self.position.epoch, self.position.batch, resume)
        strategy.learn_classes(index)
        if self.curve.flush(name):
            self._log_loss(name)
        self.files.join()
        self.files.tell(task, self.folder, self.progress.message)
        if not self.manager.own_weights and not self.manager.backbone_unchanged():
            raise MtpeftError(f"the frozen backbone changed while task {name!r} was trained; results are not written")
        self._evaluate_row(index)
        self.position = Position(index + 1)
        self.folder.log(
            "task", task=name, row=[None if np.isnan(v) else round(v, 4) for v in self.measured.matrix.row(index)]
        )
        self._save()

    def _log_loss(self, name: str) -> None:
        """The newest point of the loss curve, and the learning rate of its step."""
        rate = self.strategy.optimizer.param_groups[0]["lr"]
        self.logs.add({"rate": rate, f"loss/{name}": self.curve.points[-1]["loss"]}, self.curve.step)

    def _after_step(self, index: int) -> None:
        clock = self.strategy.clock
        length = self.strategy.steps_per_epoch
        done = clock.train_exp_iterations
        self.position = Position(index, done // length, done % length)
        stopping = self.stop()
        due = stopping or done % self.interval == 0 or self.position.batch == 0
        if self.granularity == "step" and due and done < length * self.training.epochs:
            self.strategy.read_losses()
            self._save()
        if stopping:
            raise _Stopped

    def _evaluate_row(self, i: int) -> None:
        """Row i of R. Isolated weights leave finished and future tasks as they were: their entries are carried over."""
        self.progress.stage("evaluating", 0)
        total, matrix = len(self.stream), self.measured.matrix
        last = total if self.stream.kind != "class_incremental" else i + 1
        for j in range(last):
            if self.carried and j != i:
                source = matrix[i - 1, j] if j < i else self.measured.reference[j]
                assert source is not None
                matrix.set(i, j, source, len(self.stream[j].test))
            else:
                matrix.set(i, j, *self._measure(j))
        measured = zip(matrix.tasks, matrix.to_dict()["values"][i], strict=True)
        self.logs.add({f"{task.name}/{task.metric}": value for task, value in measured}, self.curve.step)

    @property
    def carried(self) -> bool:
        """Whether training a task leaves the measures of all others as they are."""
        return self.manager.isolated and self.stream.kind in TASK_KNOWN

    def _measure(self, j: int) -> tuple[float, int]:
        self.evaluations += 1
        found = self.strategy.measured(j)
        predictions = found.predictions()
        if predictions is not None:
            self.measured.add_predictions(self.stream[j].name, predictions)
        return found.value(), len(self.stream[j].test)

    def evaluate_final(self, folder: RunFolder) -> list[float | None]:
        """The last row of R, measured again on the state a finished run left."""
        self.restore_final(folder)
        with matrix_products(self.training, self.device, self.progress.message):
            return [self._measure(j)[0] for j in range(len(self.stream))]

    def restore_final(self, folder: RunFolder) -> None:
        """Take the state a finished run left; `ConfigError` where there is none."""
        state = first(folder.state.read() if folder.writes else None)
        if state is None:
            raise ConfigError(f"{folder.path} has no saved state to evaluate")
        self._restore_progress(state)
        if self.position.experience != len(self.stream):
            raise ConfigError(f"{folder.path}: its saved state is not that of the finished run")

    # results ------------------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        found = {**self.folder.facts, **self.features.facts()}
        results = {**run_facts(self), **found, **summarise(self.manager, self.stream, self.measured)}
        shapes, names = shapes_of(self.stream, self.manager), tasks_of(self.stream, self.manager)
        results["memory"] = memory_facts(self, shapes, names)
        if self.strips:
            assert isinstance(self.stream, Stream)
            self.progress.stage("clip strips", 0)
            pictures, predictions = self.folder.path / PICTURES, self.measured.predictions
            write_strips(self.model, self.stream, predictions, pictures, self.strips)
            results["pictures"] = PICTURES
        self.logs.send()
        save_model(self.manager, self.folder.path / MODEL, model_tasks(self.manager, self.stream))
        write(self.folder.results, results)
        self.folder.log("done")
        return results

    # state --------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write everything needed to go on from here. Between experiences there is no optimiser to keep."""
        if self.granularity == "none":
            return
        self.files.join()
        if not self.folder.writes:
            return
        inside = self.position.epoch > 0 or self.position.batch > 0
        self.folder.state.write(
            {
                "position": vars(self.position),
                "begun": self._begun(),
                "epochs": self.training.epochs,
                "weights": Parts("weights", self._weights(), partial=True),
                "update": self.strategy.update.state() if inside else None,
                "plugins": plugin_states(self.strategy.plugins),
                "random": random_state(),
                **self.measured.state(self._rows()),
                **self.files.state(),
                "logs": self.logs.state(),
                "curve": {"every": self.curve.every, "pending": self.curve.pending, "step": self.curve.step},
                "points": Parts("points", {t: self.curve.of(t) for t in self._names()}, partial=True),
            },
        )
        self._saved = True
        self.logs.send()
        place = {"step": self.curve.step, "tasks": len(self.stream), "epochs": self.training.epochs}
        self.folder.log("checkpoint", **vars(self.position), **place)

    def _names(self) -> list[str]:
        """The tasks whose own state may have changed since it was saved last: all, until all were saved once."""
        index = self.position.experience  # the one at hand, or the one after that which just ended
        names = [task.name for task in self.stream]
        return names[max(0, index - 1) : index + 1] if self._saved else names

    def _rows(self) -> list[int]:
        """The rows of the matrix that may be new."""
        index = self.position.experience
        return list(range(max(0, index - 1) if self._saved else 0, index))

    def _weights(self) -> dict[str, dict[str, Any]]:
        """Trained weights by task: those that may have changed."""
        alone = self._saved and self.strategy.alone
        return self.manager.trained_state_by_task(self._names() if alone else None)

    def _begun(self) -> int:
        """Experiences whose classes the manager has."""
        return len(self.manager.tasks) if self.stream.kind == "class_incremental" else 0

    def _restore_progress(self, state: dict[str, Any]) -> None:
        """What does not need the strategy to be inside an experience."""
        for index in range(state["begun"]):
            self.model.begin(index)
        weights = {name: tensor for group in state["weights"].values() for name, tensor in group.items()}
        self.manager.load_state_dict(weights, strict=False)
        self.position = Position(**state["position"])
        self.model.known_train_tasks_labels |= (
            set(range(self.position.experience)) if self.stream.kind in TASK_KNOWN else {0}
        )
        self.measured.restore(state)
        self.files.restore(state)
        points = [point for task in self.stream for point in state["points"].get(task.name, ())]
        self.curve = Curve(**{**state["curve"], "every": self.training.log_every}, points=points)
        self._saved = True
        restore_plugins(self.strategy, state["plugins"], self.position.experience)
        set_random_state(state["random"])

    def _restore_training(self, state: dict[str, Any]) -> None:
        """The rest, once the plugins have seen the experience begin: what they did there is undone."""
        clock = self.strategy.clock
        if state["update"] is None:  # the beginning of an experience, or the end of the last one
            clock.train_exp_epochs = self.position.epoch
            clock.train_exp_iterations = self.position.epoch * self.strategy.steps_per_epoch
            return
        self.strategy.update.restore(state["update"])
        restore_plugins(self.strategy, state["plugins"], 0)
        # the state of an epoch's last step was saved before the clock saw the epoch end
        clock.train_exp_epochs, clock.train_epoch_iterations = self.position.epoch, self.position.batch
        set_random_state(state["random"])


class _Stopped(Exception):
    """Raised out of the training loop when the run was asked to stop."""
