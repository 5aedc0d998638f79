"""Classes told apart without a gradient: what a growing head may score images by once their tasks are learnt.

A classifier reads *views* of an image, pooled features of it under several sets of weights, and learns a task from the views
of its training images at once. It never sees those of earlier tasks again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from mtpeft.errors import ConfigError
from mtpeft.options import check_options, shown
from mtpeft.registry import Registry

#: the backbone without any method; the weights of the newest task, which are all there is where tasks share them; those of
#: every task, in the order they were added
FROZEN, TRAINED, EACH = "frozen", "trained", "each"


class Learned(nn.Module):
    """What is kept of one task's classes, in buffers, and whether it is there."""

    done: torch.Tensor

    def __init__(self, **kept: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("done", torch.tensor(False))
        for name, tensor in kept.items():
            self.register_buffer(name, tensor)

    def keep(self, **values: torch.Tensor) -> None:
        """Fill the buffers."""
        for name, value in values.items():
            self.get_buffer(name).copy_(value)
        self.done.fill_(True)


class Classifier(nn.Module, ABC):
    """Scores of all classes from views of an image; a task is learnt once, from all of its training images.

    Subclasses say what they keep of a task (`room`), how it is found (`learn`) and used (`forward`). Options are keyword
    arguments after the width of features.
    """

    #: what it reads, in this order
    views: tuple[str, ...]
    #: a task that is learnt again takes the place of what was learnt of it before
    relearns: ClassVar[bool] = True

    def __init__(self, dim: int) -> None:
        """`dim` is the width of one view's features."""
        super().__init__()
        self.dim = dim
        self.learned = nn.ModuleDict()

    @abstractmethod
    def room(self, num_classes: int) -> Learned:
        """Buffers for a task of so many classes, behind all tasks that are there."""

    @abstractmethod
    def learn(self, task: str, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Views (N, V, dim) of a task's training images, of the tasks up to this one, and labels (N,) from 0 on."""

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Views (B, V, dim) -> scores (B, classes), of all tasks in their order."""

    def grow(self, task: str, num_classes: int) -> None:
        """Make room for a task's classes."""
        self.learned[f"task={task}"] = self.room(num_classes)

    def shrink(self, task: str) -> None:
        """Forget a task, the last one."""
        del self.learned[f"task={task}"]

    def of(self, task: str) -> Any:
        """What is kept of a task."""
        return self.learned[f"task={task}"]

    @property
    def tasks(self) -> list[Any]:
        """What is kept of every task, in order."""
        return list(self.learned.values())

    @property
    def ready(self) -> bool:
        """Whether every task is learnt."""
        return all(bool(task.done) for task in self.tasks)


CLASSIFIERS: Registry[type[Classifier]] = Registry("classifier")
C = TypeVar("C", bound=type[Classifier])


def register_classifier(name: str) -> Callable[[C], C]:
    """Class decorator: registers a `Classifier`."""

    def decorate(classifier: C) -> C:
        CLASSIFIERS.add(name, classifier)
        return classifier

    return decorate


def build_classifier(config: Mapping[str, Any], dim: int) -> Classifier:
    """The classifier of `{"name": ..., ...}`. Raises `UnknownNameError`, or `ConfigError` for options it does not take."""
    if not isinstance(config, Mapping) or "name" not in config:
        raise ConfigError(
            f"classifier is {shown(config)}, expected a mapping with a 'name', one of {', '.join(CLASSIFIERS)}"
        )
    options = {key: value for key, value in config.items() if key != "name"}
    kind: Any = CLASSIFIERS.get(config["name"])
    made: Classifier = kind(dim, **check_options(f"classifier {config['name']!r}", kind, options, given=("dim",)))
    return made


def class_means(features: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The mean of the rows (N, ...) of every class: (classes, ...)."""
    sums = features.new_zeros(classes, *features.shape[1:]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=classes).to(features)
    return sums / counts.view(-1, *[1] * (features.ndim - 1))
