"""Classifier alignment: after a task, the head is trained again on features drawn for all classes seen so far.

SLCA (Zhang et al., ICCV 2023, section 3.3; SLCA++, arXiv 2408.08295, over weights of low rank) keeps the mean and
the covariance of the features of every class, when the class is learnt. From the second task on, when a task has been
trained, features are drawn from N(g m, S) with g = 0.9 + 0.1 (t_c + 1) / (t + 1) for a class of task t_c after task t, and
the head alone is trained on them by cross-entropy. Logits z are divided before by tau times the mean over tasks of the
norm of a task's part of z, so that the loss sees how classes compare and not how long their weights are.

What predicts from then on is the aligned head. The next task starts from the head as it was before alignment (SLCA), or
goes on with the aligned one (SSIAT, Tan et al., CVPR 2024; MOS, Sun et al., AAAI 2025). With `drift` the means of earlier
classes follow the backbone, as the new task's images show that it moved (SSIAT, section 3.3).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional as F

from mtpeft.data.loader import mix
from mtpeft.errors import ConfigError
from mtpeft.heads import GrowingHead
from mtpeft.heads.statistics import ClassStatistics
from mtpeft.manager.groups import parameter_groups
from mtpeft.options import Count, NotNegative, Positive, Rate
from mtpeft.runs.state import Parts
from mtpeft.runs.update import NonFiniteLossError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import SupervisedPlugin

#: the width of SSIAT's weights, in units of features
WIDTH = 4.0


class ClassifierAlignment(SupervisedPlugin):
    """Over any method whose weights serve all tasks of a class-incremental stream; the defaults are SLCA's.

    An epoch of alignment draws `samples` features of every class and takes one step of SGD (`lr`, which falls to zero
    along half a cosine, epoch by epoch; `momentum`; `weight_decay`, of matrices alone) for every `batch_size` of them, by
    default `samples`. `temperature` is tau; None leaves logits as they are. `shrink` is whether g is used. `covariance`,
    `rank` and `ridge` are those of `ClassStatistics`, which says what they keep: 2.4 MB of memory and of every checkpoint
    for each class of ViT-B. An epoch's features lie in memory together. `restore`: training goes on from the head as it was
    before. `drift` moves means, by weights of `drift_width` (4 by default).

    Other plugins see the head as training knows it: alignment comes after all they do when a task ends, and is undone
    before anything they do when one begins. What is drawn is a function of seed and task.
    """

    def __init__(
        self,
        samples: Count = 256,
        epochs: Count = 5,
        lr: Positive = 0.01,
        momentum: Rate = 0.9,
        weight_decay: NotNegative = 5e-4,
        batch_size: Count | None = None,
        temperature: Positive | None = 0.1,
        shrink: bool = True,
        covariance: Literal["full", "diagonal", "low_rank"] = "full",
        rank: Count | None = None,
        ridge: Positive = 1e-4,
        restore: bool = True,
        drift: Literal["semantic"] | None = None,
        drift_width: Positive | None = None,
    ) -> None:
        super().__init__()
        if drift is None and drift_width is not None:
            raise ConfigError("drift_width is for drift='semantic': give both, or none")
        self.samples, self.epochs, self.batch_size = samples, epochs, batch_size or samples
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.temperature, self.shrink, self.restore = temperature, shrink, restore
        self.width = None if drift is None else drift_width or WIDTH
        self.statistics = ClassStatistics(covariance, rank, ridge)
        #: between tasks, where `restore`: the head as it was trained
        self.trained: dict[str, torch.Tensor] | None = None
        #: within a task, where means drift: the features of its images as they were when it began
        self.earlier: torch.Tensor | None = None

    # events -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Put the trained head back; a task's new classes are no part of it."""
        if self.trained is not None:
            own = head_of(strategy).state_dict()
            for name, tensor in self.trained.items():
                own[name].copy_(tensor)
            self.trained = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Look at the new task's images through the eyes of before."""
        if self.width is not None and self.earlier is None and self.statistics.means:
            self.earlier = features_of(strategy)[0]

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Keep what there is to know of the new classes, and align the head."""
        features, labels = features_of(strategy)
        if self.earlier is not None:
            assert self.width is not None
            self.statistics.move(self.earlier, features, self.width)
            self.earlier = None
        self.statistics.add(features, labels)
        if strategy.experience.current_experience == 0:
            return
        head = head_of(strategy)
        if self.restore:
            self.trained = {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}
        self.align(head, strategy.seed, strategy.experience.current_experience)

    # alignment ----------------------------------------------------------------------------------------------------

    def align(self, head: GrowingHead, seed: int, task: int) -> None:
        """Train all that is trained of `head` on features drawn for every class; `task` is the number of the last one.

        Raises `NonFiniteLossError` where that diverges.
        """
        named = [(f"heads.{name}", p) for name, p in head.named_parameters() if p.requires_grad]
        reference = named[0][1]
        optimizer = torch.optim.SGD(
            parameter_groups(named, {}, self.lr), momentum=self.momentum, weight_decay=self.weight_decay
        )
        generator = torch.Generator().manual_seed(mix(seed, "alignment", task))
        for epoch in range(self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * self.lr * (1 + math.cos(math.pi * epoch / self.epochs))
            features, labels = self.drawn(head.sizes, generator)
            for rows in torch.randperm(len(labels), generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                loss = self.loss(head, features[rows].to(reference), labels[rows].to(reference.device))
                loss.backward()
                optimizer.step()
        optimizer.zero_grad()
        if not math.isfinite(last := loss.item()):
            raise NonFiniteLossError(
                f"the loss of aligning the head is {last}; lower lr of plugin 'ClassifierAlignment' (the last "
                "checkpoint is kept)"
            )

    def drawn(self, sizes: Sequence[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The features (N, d) of an epoch and their classes (N,), class by class; `sizes` are the tasks' numbers of classes."""
        owner = [number for number, size in enumerate(sizes) for _ in range(size)]
        labels = sorted(self.statistics.means)
        factors = [0.9 + 0.1 * (owner[label] + 1) / len(sizes) if self.shrink else 1.0 for label in labels]
        draw = self.statistics.draw
        features = [draw(c, self.samples, generator, g) for c, g in zip(labels, factors, strict=True)]
        return torch.cat(features), torch.tensor(labels).repeat_interleave(self.samples)

    def loss(self, head: GrowingHead, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over all classes, of logits divided by their norms where there is a temperature."""
        logits = head(features)
        if self.temperature is not None:
            norms = torch.stack([part.norm(dim=1) + 1e-7 for part in logits.split(head.sizes, dim=1)])
            logits = logits / (self.temperature * norms.mean(0)[:, None])
        return F.cross_entropy(logits, labels)

    # state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on; of what is kept for a class, only what is new is written again."""
        kept = {f"alignment {name}": Parts(f"alignment {name}", v) for name, v in self.statistics.state().items()}
        return {**kept, "trained": self.trained, "earlier": self.earlier}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.statistics.restore({name: state[f"alignment {name}"] for name in self.statistics.state()})
        trained, earlier = state["trained"], state["earlier"]
        self.trained = None if trained is None else {name: tensor.clone() for name, tensor in trained.items()}
        self.earlier = None if earlier is None else earlier.clone()


def head_of(strategy: Any) -> GrowingHead:
    """The head of all classes."""
    manager = strategy.model.manager
    head: GrowingHead = manager.head(manager.tasks[-1])
    return head


@torch.no_grad()
def features_of(strategy: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled features (N, d) of all training images of the task at hand, as they look in a test, and labels (N,); on the CPU.

    The order is always the same. Of clips in several views they are the mean of the views'.
    """
    manager = strategy.model.manager
    training = manager.training
    features, labels = [], []
    manager.eval()
    try:
        for images, classes in strategy.plain_batches(strategy.stream[strategy.experience.current_experience].train):
            views = images.to(strategy.device).unbind(1) if images.ndim == 6 else [images.to(strategy.device)]
            found = torch.stack([manager.features(view, manager.tasks[-1]).float() for view in views]).mean(0)
            features.append(found.cpu())
            labels.append(classes.cpu())
    finally:
        manager.train(training)
    return torch.cat(features), torch.cat(labels)
