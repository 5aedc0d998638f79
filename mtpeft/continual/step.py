"""Avalanche's supervised template, where an iteration is a step: of several batches, and of several processes' parts of them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mtpeft.continual.benchmark import TaskLoader
from mtpeft.continual.objectives import Objective
from mtpeft.continual.processes import Part, Step, own_numbers, parts_of, sum_counts, sum_step
from mtpeft.continual.training import Training
from mtpeft.runs.distributed import average_buffers, world
from mtpeft.runs.update import Update
from mtpeft.sharing.pool_usage import Usage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.templates import SupervisedTemplate


class StepTemplate(SupervisedTemplate):
    """A subclass sets `training_settings`, `seed`, `objectives`, and with every optimiser `update`, `_statistics` and
    `_usages`.

    Its `_own_rows(number)` are this process's share of a batch.
    """

    training_settings: Training
    seed: int
    objectives: Sequence[Objective]
    update: Update
    _labels = 0  # of the batch at hand, in all processes
    _statistics: Sequence[torch.Tensor] = ()  # of trained batch norms, which several processes average
    _usages: Sequence[Usage] = ()  # counts of choices, which several processes add up

    @property
    def _objective(self) -> Objective:
        """That of the experience at hand."""
        return self.objectives[self.experience.current_experience]

    def training_epoch(self, **kwargs: Any) -> None:
        """Avalanche's, where an iteration is a step: one of several batches has several forward and backward passes.

        Each batch counts by its labels, so that the step is that of all in one; penalties that plugins add to the loss
        are added to each, and count once.
        """
        batches: Iterator[Part] = iter(self.dataloader)
        if world() > 1 and not isinstance(self.dataloader, TaskLoader):  # one that a plugin brings
            batches = parts_of(self.dataloader, self._own_rows)
        count, index = self._objective.count, self.experience.current_experience
        while parts := list(itertools.islice(batches, self.training_settings.accumulate)):
            if self._stop_training:
                break
            step, losses = Step.of(parts, count), [self._make_empty_loss()]
            for number, self.mbatch in enumerate(parts):
                self._labels = step.labels[number]
                if self.mbatch is not None:
                    self._unpack_minibatch()
                if number == 0:
                    self._before_training_iteration(**kwargs)
                    self.optimizer.zero_grad()
                if self.mbatch is not None:
                    with own_numbers(self.device, self.seed, index, self.clock.train_exp_iterations, number):
                        losses.append(self._backward_part(step.weights[number], **kwargs))
            self._join(losses, step)
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)

    def _backward_part(self, weight: float, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch; its weighted loss."""
        self.loss = self._make_empty_loss()
        self._before_forward(**kwargs)
        with self.update.autocast():
            output = self.forward()
        self.mb_output = output.float()
        self._after_forward(**kwargs)
        self.loss += self.criterion()
        self._before_backward(**kwargs)
        if weight != 1.0:
            self.loss = self.loss * weight
        self.update.backward(self.loss)
        return self.loss.detach()

    def _join(self, losses: list[torch.Tensor], step: Step) -> None:
        """Gradients and loss of the whole step, out of those of its parts in all processes."""
        self.loss = sum_step(self.update.parameters, torch.cat(losses).sum(), step)
        average_buffers(self._statistics)
        sum_counts(self._usages)
        self.update.unscale()

    def _unpack_minibatch(self) -> None:
        """To the device, which is not waited for; which task a sample is of stays known here."""
        assert self.mbatch is not None
        inputs, *rest, task_labels = self.mbatch
        self.mbatch = [*(x.to(self.device, non_blocking=True) for x in (inputs, *rest)), task_labels.cpu()]
