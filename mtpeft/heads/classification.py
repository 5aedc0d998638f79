"""Heads for classification: one linear layer per task, or one head that grows with every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtpeft.errors import ConfigError
from mtpeft.heads.base import Head, register_head
from mtpeft.heads.classifiers import build_classifier
from mtpeft.heads.cosine import CosineHead, CosineLayer, Scale
from mtpeft.options import Count, Positive

#: of cosines, where none is given
SCALE = 20.0


def linear(dim: int, num_classes: int) -> nn.Linear:
    """A linear classifier: weights truncated normal with standard deviation 0.02 (timm's), bias zero."""
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}: a head needs at least one class")
    layer = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


@register_head("linear")
class LinearHead(Head):
    """Pooled features (B, C) -> logits (B, num_classes)."""

    def __init__(self, dim: int, num_classes: Count) -> None:
        super().__init__()
        self.fc = linear(dim, num_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, num_classes)."""
        return self.fc(features)

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layer's."""
        return self.fc.weight, self.fc.bias


@register_head("growing")
class GrowingHead(Head):
    """One head for all tasks of a class-incremental stream: a part per task, logits side by side.

    Created empty; `grow` adds a task's classes. `masked` restricts logits to one task's classes. Parts are linear layers,
    or with `kind` cosine directions without bias: logits are `scale * cos(f, w_c)`, so that classes learnt at different
    times differ by no length. `scale` (20, as in SSIAT and TUNA) is the same for all tasks, fixed, or with `learn_scale`
    trained from there on.

    With a `classifier`, `dict(name="prototypes", ...)`, the parts are there to train by: in eval mode classes are scored by it,
    from the views it reads, as soon as it has learnt all tasks (`TaskManager.learn_classes`).
    """

    def __init__(
        self,
        dim: int,
        kind: Literal["linear", "cosine"] = "linear",
        scale: Positive | None = None,
        learn_scale: bool = False,
        classifier: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        #: all that parts have in common
        self.options = self.described(kind, scale, learn_scale, classifier)
        self.dim, self.kind = dim, kind
        self.parts = nn.ModuleDict()
        self.scale = None if kind == "linear" else Scale(self.options["scale"], learn_scale)
        self.classifier = None if classifier is None else build_classifier(classifier, dim)

    @staticmethod
    def described(
        kind: str = "linear",
        scale: float | None = None,
        learn_scale: bool = False,
        classifier: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The options of a head, those not given filled in. Raises `ConfigError` for some that do not go together."""
        if kind == "linear" and (scale is not None or learn_scale):
            raise ConfigError("head 'growing': scale and learn_scale are for kind='cosine'; linear logits have none")
        given = {"kind": kind, "scale": SCALE if scale is None else scale, "learn_scale": learn_scale}
        return given | ({} if classifier is None else {"classifier": dict(classifier)})

    def grow(self, task: str, num_classes: Count) -> None:
        """Append `num_classes` classes of `task` behind those seen so far."""
        make = linear if self.kind == "linear" else CosineLayer
        self.parts[f"task={task}"] = make(self.dim, num_classes)
        if self.classifier is not None:
            self.classifier.grow(task, num_classes)

    def part(self, task: str) -> nn.Module:
        """The layer of one task's classes."""
        return self.parts[f"task={task}"]

    def used(self, task: str) -> list[nn.Module]:
        """The modules whose weights the logits of the task's classes depend on: its part, and a learned scale."""
        common: list[nn.Module] = [self.scale] if self.scale is not None and self.scale.learned else []
        return [self.part(task), *common, *([] if self.classifier is None else [self.classifier])]

    def shrink(self, task: str) -> None:
        """Forget a task's classes. Only the last task can go: the others' classes keep their numbers."""
        if list(self.parts)[-1] != f"task={task}":
            raise ConfigError(f"task {task!r} cannot leave the growing head before the tasks added after it")
        del self.parts[f"task={task}"]
        if self.classifier is not None:
            self.classifier.shrink(task)

    @property
    def classifies(self) -> bool:
        """Whether its classifier scores images now: in eval mode, with all tasks learnt."""
        return self.classifier is not None and not self.training and self.classifier.ready

    @property
    def sizes(self) -> list[int]:
        """Numbers of classes, task by task."""
        return [len(part.weight) for part in self.parts.values()]  # type: ignore[arg-type]

    def classes(self, task: str) -> range:
        """The task's columns among the logits."""
        start = 0
        for name, size in zip(self.parts, self.sizes, strict=True):
            if name == f"task={task}":
                return range(start, start + size)
            start += size
        raise ConfigError(f"task {task!r} has no classes in the growing head")

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> (B, all classes seen so far)."""
        if self.scale is not None:
            features = F.normalize(features, dim=1)
        logits = torch.cat([part(features) for part in self.parts.values()], dim=1)
        return logits if self.scale is None else self.scale(logits)

    def linear(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Those of all classes seen so far; None of cosines, which are no linear map of the features."""
        if self.kind != "linear" or self.classifier is not None:
            return None
        parts = list(self.parts.values())
        return tuple(torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))  # type: ignore[return-value]

    def alone(self) -> Head:
        """A copy of a cosine head that is not made of tasks and does not grow."""
        if self.classifier is not None:
            raise ConfigError(
                "head 'growing': its classifier reads several views of an image, and cannot leave the manager"
            )
        if self.scale is None:
            raise ConfigError("head 'growing': one of kind 'linear' is its linear map: take `linear()`")
        weight = torch.cat([part.weight for part in self.parts.values()])  # type: ignore[misc]
        return CosineHead(weight, float(self.scale.value))

    def masked(self, logits: torch.Tensor, task: str) -> torch.Tensor:
        """Logits with every class that is not the task's at minus infinity."""
        keep = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        own = self.classes(task)
        keep[own.start : own.stop] = True
        return logits.masked_fill(~keep, float("-inf"))
