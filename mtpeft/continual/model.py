"""A task manager as an Avalanche model.

Avalanche names tasks by integers and hands plugins `named_parameters()`: the view maps the first to task names and shows
only trained weights in the second, so that EWC, SI and the like keep copies of those alone (EWC on a frozen ViT-B would
otherwise keep 0.7 GB per task).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mtpeft.data.streams import TASK_KNOWN
from mtpeft.errors import ConfigError
from mtpeft.manager.ensemble import mean_of_views
from mtpeft.manager.manager import TaskManager
from mtpeft.methods.group import Group

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.models import MultiTaskModule


class ContinualModel(MultiTaskModule):
    """A `TaskManager` learning a stream of `kind` task_, dense_, class_ or domain_incremental.

    Task- and dense-incremental: a task with a head of its own per experience, all made at the start. Class-incremental:
    one growing head, an experience's classes added when it begins. Domain-incremental: one task throughout.
    """

    def __init__(self, manager: TaskManager, kind: str, tasks: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """`tasks`: name of every experience, in order, with the arguments of `TaskManager.add_task` for its head."""
        super().__init__()
        self.task_known = kind in TASK_KNOWN
        own = [a for a in manager.methods if a.spec.stream or (a.selected and not a.weights.single_pass)]
        if own and not self.task_known:
            raise ConfigError(
                f"a {kind.replace('_', '-')} stream tells no task at test time, so weights cannot be per task, as those "
                f"of method {own[0].spec.name!r} are: sharing='shared', where the method has it"
            )
        growing = [a for a in manager.methods if a.weights.grows]
        if growing and kind != "class_incremental":
            raise ConfigError(
                f"sharing {growing[0].sharing_name!r} adds weights with every task as it comes, which a class-incremental "
                f"stream tells it: stream.type is {kind!r}, expected 'class_incremental'"
            )
        self.manager, self.kind, self.experiences = manager, kind, list(tasks)
        if self.task_known:
            for name, head in tasks:
                manager.add_task(name, **head)
        elif kind == "domain_incremental":
            manager.add_task(tasks[0][0], num_classes=max(head["num_classes"] for _, head in tasks))

    def begin(self, index: int) -> None:
        """Make room for the classes of experience `index`."""
        name, head = self.experiences[index]
        if self.kind == "class_incremental" and name not in self.manager.tasks:
            self.manager.add_task(name, **head, head="growing")
        self.known_train_tasks_labels.add(index if self.task_known else 0)

    def adaptation(self, experience: Any) -> None:
        """Avalanche's call before each experience; only training makes room."""
        if self.training:
            self.begin(experience.current_experience)

    def task_of(self, label: int) -> str:
        """The manager's task behind one of Avalanche's task labels."""
        return self.experiences[label][0] if self.task_known else self.manager.tasks[-1]

    def forward(self, x: torch.Tensor, task_labels: torch.Tensor | int | None = None) -> Any:
        """Images (B, C, H, W) or clips (B, C, T, H, W) and task labels (B,) -> outputs (B, ...), from one backbone pass.

        Of clips in V views, (B, V, C, T, H, W), the output is the logarithm of the mean of the views' probabilities.
        Heads of different width are padded with zeros to the widest. Without labels: {label: output} of all tasks
        trained so far (what LwF asks for).
        """
        if x.ndim == 6:
            return self.manager.ensembled(lambda: self._mean_of_views(x, task_labels))
        if task_labels is None:
            return {label: self.manager(x, self.task_of(label)) for label in sorted(self.known_train_tasks_labels)}
        labels = [task_labels] if isinstance(task_labels, int) else task_labels.unique().tolist()
        if len(labels) == 1 or not self.task_known:
            return self.manager(x, self.task_of(labels[0]))
        assert isinstance(task_labels, torch.Tensor)
        index = torch.bucketize(task_labels, torch.tensor(labels, device=task_labels.device))
        outputs = self.manager.forward_indexed(x, [self.task_of(label) for label in labels], index)
        return _assemble(list(outputs.values()), x.shape[0])

    def _mean_of_views(self, x: torch.Tensor, task_labels: torch.Tensor | int | None) -> torch.Tensor:
        return mean_of_views([self(view, task_labels) for view in x.unbind(1)])

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained weights only."""
        if recurse:
            for name, parameter in self.manager.trainable_parameters():
                yield f"{prefix}.{name}" if prefix else name, parameter

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """This module alone: Avalanche walks through all of them, several times for every experience."""
        yield prefix, self

    def to(self, *args: Any, **kwargs: Any) -> ContinualModel:
        """As of any module; nothing to do on the device the manager is on, which Avalanche asks for time and again."""
        place = next(self.manager.backbone.parameters()).device
        if args and not kwargs and args[0] == place:
            return self
        return super().to(*args, **kwargs)

    def trained(self, label: int | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained weights by name; with one of Avalanche's task labels, those that task uses."""
        return self.manager.trainable_parameters(None if label is None else self.task_of(label))

    def groups(self, label: int | None = None) -> dict[nn.Parameter, Group]:
        """The parameter groups that methods declare, of all trained weights or of those a task label uses."""
        return self.manager.weight_groups(None if label is None else self.task_of(label))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Trained weights only."""
        return self.manager.trained_state()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take what `state_dict` gave."""
        return self.manager.load_state_dict(state_dict, strict=False)


def _assemble(parts: list[tuple[torch.Tensor, torch.Tensor]], batch: int) -> torch.Tensor:
    """Outputs of several tasks in the batch's own order."""
    width = max(output.shape[1] for _, output in parts)
    padded = [nn.functional.pad(out, [0, 0] * (out.ndim - 2) + [0, width - out.shape[1]]) for _, out in parts]
    rows = torch.cat([rows for rows, _ in parts])
    return torch.cat(padded)[rows.argsort()]
