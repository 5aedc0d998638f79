"""Classes scored without a gradient: the views of an image that a growing head's classifier reads, and how it learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from mtpeft.errors import ConfigError, DataError
from mtpeft.heads import GrowingHead
from mtpeft.heads.classifiers import EACH, FROZEN, TRAINED, Classifier
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.features import extract
from mtpeft.manager.protocol import Managed
from mtpeft.manager.queries import query_of


def classifier_of(head: Any) -> Classifier | None:
    """A head's classifier; None for heads that have none."""
    return head.classifier if isinstance(head, GrowingHead) else None


def check_classifier(manager: Managed, classifier: Classifier) -> None:
    """Raise `ConfigError` where the attached methods cannot give the views that it reads."""
    acting = [a for a in manager.methods if a.selected]
    for attachment in acting:
        method, source = attachment.spec.name, attachment.sharing_name
        if attachment.weights.members > 1 or attachment.weights.driven:
            raise ConfigError(
                f"a classifier reads one set of weights, and sharing {source!r} of method {method!r} has several"
            )
        if EACH in classifier.views and not attachment.weights.isolated:
            raise ConfigError(
                f"the classifier reads the weights of each task apart, and those of method {method!r} are those of all: "
                "sharing='per_task'"
            )
    if EACH in classifier.views and not acting:
        raise ConfigError("the classifier reads the weights of each task, and the method has none")
    if FROZEN in classifier.views and manager.owned:
        raise ConfigError("the classifier reads the frozen backbone, and the method trains the backbone's own weights")
    if FROZEN in classifier.views and manager.anatomy.feature_dim != classifier.dim:
        raise ConfigError(
            f"the classifier reads features of {classifier.dim} numbers, and those of the frozen backbone have "
            f"{manager.anatomy.feature_dim}: features='trained'"
        )


def views_of(manager: Managed, images: torch.Tensor, task: str, classifier: Classifier) -> torch.Tensor:
    """The views (B, V, d) that the classifier reads of images, clips or rows; of the tasks up to `task`.

    Those of several tasks come from one pass over as many copies of each image.
    """
    found: list[torch.Tensor] = []
    for view in classifier.views:
        if view == FROZEN:
            found.append(query_of(manager, images))
        elif view == TRAINED:
            found.append(extract(manager, images, Selection((task,)), ("pooled",))["pooled"])
        else:
            names = list(classifier.learned)
            found += _of_tasks(
                manager, images, [n.removeprefix("task=") for n in names[: names.index(f"task={task}") + 1]]
            )
    return torch.stack(found, dim=1)


def _of_tasks(manager: Managed, images: torch.Tensor, tasks: list[str]) -> list[torch.Tensor]:
    """The features under the weights of each task."""
    if len(tasks) == 1:
        return [extract(manager, images, Selection((tasks[0],)), ("pooled",))["pooled"]]
    copies = images.repeat(len(tasks), *[1] * (images.ndim - 1))
    index = torch.arange(len(tasks), device=images.device).repeat_interleave(len(images))
    rows = list(torch.arange(len(copies), device=images.device).split(len(images)))
    pooled: torch.Tensor = extract(manager, copies, Selection(tuple(tasks), index, rows=rows), ("pooled",))["pooled"]
    return list(pooled.split(len(images)))


def scores(manager: Managed, images: torch.Tensor, task: str) -> torch.Tensor | None:
    """What the classifier of the task's head makes of images; None where there is none, or it is not its turn."""
    head: Any = manager.head(task)
    classifier = classifier_of(head)
    if classifier is None or not head.classifies:
        return None
    found: torch.Tensor = classifier(
        views_of(manager, images, list(classifier.learned)[-1].removeprefix("task="), classifier)
    )
    return found


@torch.no_grad()
def learn_classes(manager: Any, task: str, loader: Iterable[Any]) -> None:
    """Show the classifier of a growing head the training images of `task`, batches (images, labels), as a test would see them.

    Labels are the task's columns among the head's scores. Raises `ConfigError` where there is no classifier, and `DataError`
    for a label of another task or a class without an image.
    """
    head = manager.head(task)
    classifier = classifier_of(head)
    if classifier is None:
        raise ConfigError(f"task {task!r}: its head has no classifier that learns without a gradient")
    if not classifier.relearns and bool(classifier.of(task).done):
        raise ConfigError(
            f"task {task!r} is learnt, and its classifier cannot take that back: add its images to another task"
        )
    reference, own = next(manager.backbone.parameters()), head.classes(task)
    views, labels = [], []
    training = manager.training
    manager.eval()
    try:
        for images, targets, *_ in loader:
            clips = images.to(reference.device).unbind(1) if images.ndim == 6 else [images.to(reference.device)]
            found = torch.stack([views_of(manager, view, task, classifier) for view in clips]).mean(0)
            views.append(found)
            labels.append(targets.to(reference.device) - own.start)
    finally:
        manager.train(training)
    if not labels:
        raise DataError(f"task {task!r}: no training images to learn its classes from")
    classes = torch.cat(labels)
    counts = torch.bincount(classes.clamp(0, len(own) - 1), minlength=len(own))
    if bool((classes < 0).any()) or bool((classes >= len(own)).any()):
        raise DataError(f"task {task!r}: a label is not one of the {len(own)} columns that the head has for it")
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0]) + own.start
        raise DataError(f"task {task!r}: class {missing} has no training image to be learnt from")
    classifier.learn(task, torch.cat(views), classes)
