"""Avalanche's supervised template with a task manager as model, batches that can be resumed, and our own metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.continual.benchmark import VALIDATION, TaskLoader, to_avalanche
from mtpeft.continual.margin import with_margin
from mtpeft.continual.model import ContinualModel
from mtpeft.continual.objectives import Running, objectives_of
from mtpeft.continual.plugins import check_plugins, seed_memories
from mtpeft.continual.processes import statistics, usages
from mtpeft.continual.step import StepTemplate
from mtpeft.continual.training import Training
from mtpeft.data.dense.stream import DenseStream, LabelView
from mtpeft.data.loader import Readers, ResumableLoader, count_batches
from mtpeft.data.streams import TASK_KNOWN, Stream, StreamTask
from mtpeft.errors import ConfigError, DataError
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.batch_norm import REMEDY, norms_of_one_value
from mtpeft.runs.distributed import first, gather, own_rows, world
from mtpeft.runs.update import NonFiniteLossError, Recent, Update

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.logging import BaseLogger
    from avalanche.training.plugins import EvaluationPlugin, SynapticIntelligencePlugin


class _NoLog(BaseLogger):
    """Avalanche warns when it has no logger; the run folder has a log of its own."""


class ContinualStrategy(StepTemplate):
    """Sequential training of a `ContinualModel` on a `Stream`.

    Everything Avalanche's template promises to plugins holds. Three things differ: the optimiser is made anew for every
    experience from `training`; batches come from our own loader, whose order is a function of seed, experience and epoch
    (unless a plugin such as replay brings its own); and training may start in the middle of an experience.

    Several processes share out every batch (`processes`); what plugins do between steps each of them does alike.
    """

    def __init__(
        self,
        *,
        model: ContinualModel,
        stream: Stream | DenseStream,
        training: Training,
        seed: int = 0,
        plugins: Sequence[Any] = (),
        device: str | torch.device = "cpu",
        evaluator: EvaluationPlugin | None = None,
    ) -> None:
        """`plugins` are Avalanche's, or any with its hooks."""
        check_plugins(plugins, training, stream, model.manager)
        seed_memories(plugins, seed)
        if evaluator is None:
            metrics = accuracy_metrics(stream=True) if training.eval_every else []
            evaluator = EvaluationPlugin(*metrics, loggers=[_NoLog()])
        # said before the first evaluation, which is the one it waits for
        warnings.filterwarnings("ignore", message="Metric .* used by the EarlyStopping plugin")
        placeholder = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)  # make_optimizer replaces it
        super().__init__(
            model=model,
            optimizer=placeholder,
            criterion=self._experience_loss,
            train_mb_size=training.batch_size,
            train_epochs=training.epochs,
            eval_mb_size=training.eval_batch_size,
            device=torch.device(device),
            plugins=list(plugins),
            evaluator=evaluator,
            eval_every=training.eval_every or -1,  # Avalanche's 0 evaluates at the beginning and the end
        )
        self.stream, self.training_settings, self.seed = stream, training, seed
        self.benchmark, self.objectives = to_avalanche(stream), objectives_of(stream)
        #: whether an experience trains what its own task uses and nothing else
        self.alone = stream.kind in TASK_KNOWN and not plugins
        #: of every experience, whether a batch of one image would stop it
        self.needs_two = [self._needs_two(index) for index in range(len(stream))]
        self.local_loss = training.loss == "local_cross_entropy"
        self.first_epoch = 0
        self.first_batch = 0
        #: called after every optimiser step
        self.on_step: Callable[[], None] = lambda: None
        #: called with the losses of the steps since the last call, at the latest after `log_every`
        self.on_losses: Callable[[list[float]], None] = lambda losses: None
        self.recent = Recent()
        self._readers: Readers | None = None
        self._pin = self.device.type == "cuda"
        self.on_resume: Callable[[], None] | None = None
        self._needs_gradients = any(isinstance(p, SynapticIntelligencePlugin) for p in self.plugins)
        self._stop_training = False
        self._measure: Running | None = None

    # training -----------------------------------------------------------------------------------------------------

    def train_experience(
        self, index: int, epoch: int = 0, batch: int = 0, on_resume: Callable[[], None] | None = None
    ) -> None:
        """Train experience `index`, from batch `batch` of epoch `epoch` on.

        `on_resume` restores states after the plugins have seen the beginning of the experience.
        """
        self.first_epoch, self.first_batch, self.on_resume = epoch, batch, on_resume
        self.model.begin(index)  # before Avalanche does: plugins may evaluate before the first step
        self.train(self.benchmark.train_stream[index], eval_streams=self._watched(index))

    def _watched(self, index: int) -> list[Any]:
        """The validation data of an experience, for plugins that watch them."""
        streams = self.benchmark.streams
        return [streams[VALIDATION][index : index + 1]] if VALIDATION in streams else []

    def _before_training_exp(self, **kwargs: Any) -> None:
        self.evaluator.last_metric_results = {}  # early stopping would start from the experience before
        super()._before_training_exp(**kwargs)

    def model_adaptation(self, model: Any = None) -> Any:
        """Make room for the experience; the model is the one module that does, so Avalanche need not look for others."""
        chosen = self.model if model is None else model
        chosen.adaptation(self.experience)
        return chosen

    def make_optimizer(self, **kwargs: Any) -> None:
        """A new optimiser over the trained weights: those that get a gradient, where no plugin trains others too."""
        label, model = self.experience.current_experience if self.alone else None, self.model
        before: torch.optim.Optimizer = self.optimizer  # type: ignore[has-type]
        before.zero_grad()  # what the task before leaves is no gradient of this one's steps
        trained = list(model.trained(label))
        self.optimizer = self.training_settings.build_optimizer(trained, model.groups(label))
        self.optimized_param_id = dict(trained)
        self.update = Update(self.optimizer, self.device.type, self.training_settings)
        self._statistics = statistics(model.manager) if world() > 1 else []
        self._usages = usages(model.manager) if world() > 1 else []

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """Our own loader for the epoch to come; a plugin may put another in its place."""
        workers = self.training_settings.workers
        data = self.stream[self.experience.current_experience].train
        self._readers = Readers(data, workers, self._pin) if workers else None
        self.dataloader = self._loader(self.first_epoch, self.first_batch)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of `accumulate` batches, the last of those that are left."""
        return -(-len(self.dataloader) // self.training_settings.accumulate)

    def _loader(self, epoch: int, start: int = 0) -> TaskLoader:
        """Our own loader, from step `start` on."""
        index = self.experience.current_experience
        settings = self.training_settings
        loader = ResumableLoader(
            self.stream[index].train,
            settings.batch_size,
            seed=self.seed * 1_000_003 + index,
            epoch=epoch,
            start=start * settings.accumulate,
            join_single=self.needs_two[index],
            rows=self._own_rows if world() > 1 else None,
            readers=self._readers,
            pin=self._pin,
        )
        return TaskLoader(loader, index if self.stream.kind in TASK_KNOWN else 0)

    def learn_classes(self, index: int) -> None:
        """Show the head's classifier, where it has one, the training images of experience `index` as a test would see them."""
        if self.model.learns_classes:
            task = self.stream[index]
            self._manager.learn_classes(task.name, self.plain_batches(task.train))

    def plain_batches(self, data: Any) -> ResumableLoader:
        """Training images without augmentation and their labels, in an order of their own, which is always the same."""
        settings = self.training_settings
        return ResumableLoader(data.plain(), settings.batch_size, self.seed, epoch=0, num_workers=settings.workers)

    def epoch_batches(self, index: int) -> int:
        """Batches of an epoch of experience `index`, when no plugin brings its own loader."""
        return count_batches(
            len(self.stream[index].train), self.training_settings.batch_size, join_single=self.needs_two[index]
        )

    def _own_rows(self, number: int) -> range:
        """This process's share of a batch: two images at least, or none, where batch norm needs as many."""
        return own_rows(number, 2 if self.needs_two[self.experience.current_experience] else 1)

    def _needs_two(self, index: int) -> bool:
        """Whether a batch norm of experience `index` cannot train on one image.

        Raises `ConfigError` or `DataError` where its batches have no more.
        """
        task, batch_size = self.stream[index], self.training_settings.batch_size
        model: Any = self.model
        norms = norms_of_one_value(model.manager, lambda: self._show_one(index))
        if norms and batch_size == 1:
            raise ConfigError(f"training.batch_size is 1, too few for batch norm {norms[0]!r}: {REMEDY}")
        if norms and len(task.train) == 1:
            raise DataError(f"task {task.name!r} has one training image, too few for batch norm {norms[0]!r}: {REMEDY}")
        return bool(norms)

    def _show_one(self, index: int) -> None:
        """Run the first image of experience `index` through the model."""
        data = self.stream[index].train.plain()
        x = data.collate_fn([data[0]])[0] if isinstance(data, LabelView) else data.batch([0])[0]
        model: Any = self.model
        with model.manager.runtime.trials():
            if model.manager.tasks:
                model(x.to(self.device), torch.full((1,), index if model.task_known else 0))
                return
            # a growing head, linear, comes with the first experience; a task for the time being has the weights all share
            model.manager.add_task("first", num_classes=2)
            try:
                model.manager.features(x.to(self.device), "first")
            finally:
                model.manager.remove_task("first")

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        if self.on_resume is not None:
            self.on_resume()
        for epoch in range(self.first_epoch, self.train_epochs):
            own = isinstance(self.dataloader, TaskLoader)
            resuming = epoch == self.first_epoch and self.first_batch > 0
            if own:
                self.dataloader = self._loader(epoch, self.first_batch if resuming else 0)
            if not resuming:
                self._before_training_epoch(**kwargs)
            if self._stop_training:
                self._stop_training = False
                break
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)

    @property
    def _manager(self) -> TaskManager:
        model: Any = self.model
        return model.manager

    def _before_training_iteration(self, **kwargs: Any) -> None:
        total = self.train_epochs * self.steps_per_epoch
        self.training_settings.set_rate(self.optimizer, self.clock.train_exp_iterations, total)
        self._manager.before_step()
        super()._before_training_iteration(**kwargs)

    def _experience_loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What plugins such as EWC know as the criterion: the loss of the experience at hand."""
        return self._objective.loss(output, target)

    @property
    def _is_local(self) -> bool:
        return self.local_loss and self.is_training and self.stream.kind == "class_incremental"

    def criterion(self) -> torch.Tensor:
        """The experience's own and, in training, what weight sources add to it."""
        loss = self._criterion_alone()
        for penalty in self._manager.penalties().values() if self.is_training else ():
            loss = loss + penalty
        return loss

    def _criterion_alone(self) -> torch.Tensor:
        """Local cross-entropy is over the current experience's classes only."""
        output, margin = self.mb_output, self.training_settings.margin
        if self.is_training and margin:
            output = with_margin(output, self.mb_y, self._manager.head(self._manager.tasks[-1]), margin)  # type: ignore[arg-type]
        if self.is_training and not self._is_local:
            return self._objective.loss(output, self.mb_y, self._labels)
        if not self._is_local:
            return super().criterion()
        model: Any = self.model
        own = model.manager.head(model.manager.tasks[-1]).classes(self.stream[self.experience.current_experience].name)
        if not isinstance(self.dataloader, TaskLoader) and self.mb_y.min() < own.start:  # ours has no earlier class
            raise ConfigError("local_cross_entropy cannot be used with a memory of earlier classes; use cross_entropy")
        return self._criterion(output[:, own.start : own.stop], self.mb_y - own.start)

    def optimizer_step(self) -> None:
        """Clip and step. A local loss leaves earlier classes alone, weight decay included."""
        if self._is_local:
            model: Any = self.model
            for name in model.manager.tasks[:-1]:
                for parameter in model.manager.head(name).part(name).parameters():
                    parameter.grad = None
        self._manager.after_backward()
        self.update.step()
        self.recent.add(self.clock.train_exp_iterations + 1, {"": self.loss}, self.update.norm)

    def read_losses(self) -> None:
        """Give `on_losses` the losses of the steps since it was called last.

        Raises `NonFiniteLossError` for a step whose loss or gradient was not finite: call it before anything is kept.
        """
        try:
            losses = [read[""] for _, read in self.recent.read()]
        except NonFiniteLossError as error:
            name = self.stream[self.experience.current_experience].name
            raise NonFiniteLossError(
                f"task {name!r}, {error}; lower the learning rate or set training.clip (the last checkpoint is kept)"
            ) from None
        self.on_losses(losses)

    def _after_training_iteration(self, **kwargs: Any) -> None:
        if self._needs_gradients:  # SI reads a gradient of every parameter, also of those this batch did not use
            for parameter in self.model.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        super()._after_training_iteration(**kwargs)
        if self.clock.train_exp_iterations % self.training_settings.log_every == 0:
            self.read_losses()
        if self.clock.train_exp_iterations % self.steps_per_epoch == 0:
            self._manager.after_epoch()  # before the state after this step is saved
        self.on_step()

    def _after_training_exp(self, **kwargs: Any) -> None:
        self._readers = None
        self.read_losses()
        super()._after_training_exp(**kwargs)

    # evaluation ---------------------------------------------------------------------------------------------------

    def measure(self, index: int) -> tuple[float, int]:
        """The metric of experience `index` on its test images, and their number; plugins see the evaluation."""
        return self.measured(index).value(), len(self.stream[index].test)

    def measured(self, index: int) -> Running:
        """As `measure`: all that was measured."""
        measure = self._measure = self.objectives[index].measure()
        self.eval(self.benchmark.test_stream[index : index + 1])
        self._measure = None
        if world() == 1:
            return measure
        merged = self.objectives[index].measure()
        for state in gather(measure.state()):
            merged.merge(state)
        return merged

    def eval(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Avalanche's. Plugins see what the first process measured, in all processes."""
        super().eval(*args, **kwargs)
        found: dict[str, Any] = first(self.evaluator.last_metric_results)
        self.evaluator.last_metric_results = found
        return found

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Test images or clips in order: of what is measured a process takes a share, of what plugins watch all."""
        index = self.experience.current_experience
        label = index if self.stream.kind in TASK_KNOWN else 0
        part, task = self.experience.origin_stream.name, self.stream[index]
        data: Any = task.test
        if part == "train":
            data = task.train.plain()
        elif part == VALIDATION:
            assert isinstance(task, StreamTask) and task.validation is not None
            data = task.validation.plain()
        workers, size = self.training_settings.workers, self.eval_mb_size
        items = own_rows(len(data)) if self._measure is not None else None
        loader = ResumableLoader(
            data, size, seed=0, epoch=0, shuffle=False, num_workers=workers, items=items, pin=self._pin
        )
        self.dataloader = TaskLoader(loader, label)

    def _after_eval_iteration(self, **kwargs: Any) -> None:
        super()._after_eval_iteration(**kwargs)
        if self._measure is not None:
            self._measure.update(self.mb_output, self.mb_y)
