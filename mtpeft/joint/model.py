"""The model MMEngine's Runner trains: a task manager, the kinds of its tasks, and the weighting of their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mtpeft.data.loader import mix
from mtpeft.dense.kinds import Kind
from mtpeft.errors import UnknownNameError
from mtpeft.joint.optim import UpdateWrapper
from mtpeft.joint.weighting import Weighting
from mtpeft.manager.manager import TaskManager
from mtpeft.runs.distributed import rank, sum_gradients, sum_tensors, total
from mtpeft.runs.update import Recent

#: {task: (rows (n,) into the batch, labels (n, ...))}
Labels = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@MODELS.register_module(force=True)
class JointModel(BaseModel):
    """Losses and predictions of several tasks.

    A batch is `{"images": (B, 3, H, W), "labels": {task: (rows, labels)}}`: a sample without a label for a task is not
    among that task's rows, and the loss is that of the rows alone.
    """

    def __init__(self, manager: TaskManager, kinds: Mapping[str, Kind], weighting: Weighting, seed: int = 0) -> None:
        """`kinds` of all tasks of `manager`."""
        super().__init__()
        self.manager, self.kinds, self.weighting, self.seed = manager, dict(kinds), weighting, seed
        self.step = 0
        #: losses that weight sources add to those of the tasks
        self.declared = tuple(dict.fromkeys(name for a in manager.methods for name in a.weights.declares))
        self.skipped = dict.fromkeys(self.kinds, 0)
        self.recent = Recent()
        #: tasks whose head has a batch norm that cannot train on one image
        self.needs_two: frozenset[str] = frozenset()

    def init_weights(self) -> None:
        """Nothing: weights are ready when the model is built (MMEngine would call every `init_weights` below)."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimiser updates."""
        own = [(f"weighting.{name}", p) for name, p in self.weighting.named_parameters()]
        return [*self.manager.trainable_parameters(), *own]

    # forward ------------------------------------------------------------------------------------------------------

    def forward(self, images: torch.Tensor, labels: Labels | None = None, mode: str = "loss") -> dict[str, Any]:
        """mode "loss": {task: loss}; "predict": {task: (rows, output)} for the tasks in `labels`, without them for all."""
        if mode == "loss":
            return self.losses(images, labels or {})
        rows = {task: r for task, (r, _) in labels.items()} if labels is not None else None
        return self.outputs(images, rows)

    def outputs(
        self, images: torch.Tensor, rows: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """{task: (rows, output of those rows)} in as few passes as there can be; `rows` None: all tasks for all images.

        Rows on the CPU, whatever the images' device, spare a GPU the wait until their values are known. Raises
        `UnknownNameError` for a task the model does not have.
        """
        batch, device = images.shape[0], images.device
        everything = torch.arange(batch)
        wanted = dict.fromkeys(self.manager.tasks, everything) if rows is None else rows
        for task in wanted:
            if task not in self.kinds:
                raise UnknownNameError("task", task, self.kinds, "in the batch")
        wanted = {task: r for task, r in wanted.items() if r.numel()}
        tasks = list(wanted)
        if not tasks:
            return {}
        if all(r.numel() == batch for r in wanted.values()):
            found = self.manager.forward_tasks(images, tasks)
            return {task: (r, _rows(found[task], r)) for task, r in wanted.items()}
        if self.manager.single_pass:
            found = self.manager.forward_tasks(images, tasks)
            return {task: (r, _rows(found[task], r)) for task, r in wanted.items()}
        chosen = torch.cat(list(wanted.values())).to(device, non_blocking=True)
        names = [task for task, r in wanted.items() for _ in range(r.numel())]
        mixed = self.manager(images[chosen], names)
        return {task: (r, mixed[task][1]) for task, r in wanted.items()}

    def losses(
        self, images: torch.Tensor, labels: Labels, valid: Mapping[str, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """The mean loss over the valid pixels of each task, without its weight; tasks without any are left out.

        `valid` is the number of valid pixels by task, where it is known; else they are counted.
        """
        if valid is None:
            valid = {task: int(counts.sum()) for task, counts in self.valid_pixels(labels).items()}
        outputs = self.outputs(images, {task: labels[task][0] for task, number in valid.items() if number})
        return {
            task: self.kinds[task].loss(output.float(), labels[task][1], valid[task])
            for task, (_, output) in outputs.items()
        }

    def valid_pixels(self, labels: Labels) -> dict[str, torch.Tensor]:
        """(n,) the number of pixels with a label in each of a task's samples, by task."""
        for task in labels:
            if task not in self.kinds:
                raise UnknownNameError("task", task, self.kinds, "in the batch")
        return {task: self.kinds[task].valid(y).flatten(1).sum(1) for task, (_, y) in labels.items() if len(y)}

    # training -----------------------------------------------------------------------------------------------------

    def train_step(self, data: dict[str, Any], optim_wrapper: UpdateWrapper) -> dict[str, torch.Tensor]:
        """One update from the parts of a step; returns {task: loss} over all processes, and adds them to `recent`.

        A part counts by its share of the step's valid pixels, so that neither the number of parts nor that of processes
        changes the update; in what weight sources add, by its share of images. Labels are counted on the CPU, where the
        loader leaves them.
        """
        torch.manual_seed(mix(self.seed, "before", self.step))  # what all processes draw alike
        self.manager.before_step()
        torch.manual_seed(mix(self.seed, "step", self.step, rank()))  # dropout: a resumed step draws the same
        parts, alone = data["parts"], [self._alone(part["labels"]) for part in data["parts"]]
        labels = [{t: y for t, y in p["labels"].items() if t not in left} for p, left in zip(parts, alone, strict=True)]
        counts = [self.valid_pixels(part) for part in labels]
        shares, tasks = self._shares(counts, alone)
        update = _CombinedGradients if self.weighting.combines_gradients else _Sum
        accumulated = update(self, optim_wrapper, tasks)
        device = next(self.manager.backbone.parameters()).device
        zero = torch.zeros((), device=device, dtype=sums_dtype(device))
        values = dict.fromkeys(self.kinds, zero) | dict.fromkeys(map(_named, self.declared), zero)
        images = self._images([part["images"] for part in parts], counts)
        for number, part in enumerate(parts):
            pixels = part["images"].to(device, non_blocking=True)
            placed = {t: (rows, y.to(device, non_blocking=True)) for t, (rows, y) in labels[number].items()}
            with optim_wrapper.optim_context(self):
                found = self.losses(pixels, placed, {task: int(c.sum()) for task, c in counts[number].items()})
            partial = {task: shares[number][task] * loss for task, loss in found.items()}
            added = self.manager.penalties() if images[number] else {}
            added = {_named(name): images[number] * loss for name, loss in added.items()}
            for name, loss in (partial | added).items():
                values[name] = values[name] + loss.detach()
            accumulated.add(partial, list(added.values()), penalties=number == 0 and rank() == 0)
        summed = dict(zip(values, total(torch.stack(list(values.values()))).unbind(), strict=True))
        losses = {task: summed[task] for task in summed if task in tasks}
        accumulated.finish(mix(self.seed, "aggregate", self.step))
        optim_wrapper.update.unscale()
        self.manager.after_backward()
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        self.weighting.observe({t: v * self.weighting.weights[t] for t, v in losses.items()})
        self.step += 1
        added = {_named(name): summed[_named(name)] for name in self.declared}
        self.recent.add(self.step, losses | added, optim_wrapper.update.norm)
        return losses

    def _images(self, parts: Sequence[torch.Tensor], counts: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
        """Each part's share of the step's images in all processes; 0 for one without labels, which has no forward pass."""
        if not self.declared:
            return [0.0] * len(parts)
        own = [
            len(x) if any(int(c.sum()) for c in count.values()) else 0 for x, count in zip(parts, counts, strict=True)
        ]
        every = float(total(torch.tensor([float(sum(own))], dtype=torch.float64)))
        return [number / every if every else 0.0 for number in own]

    def _alone(self, labels: Labels) -> list[str]:
        """Tasks with one sample in a part whose head cannot train on one, where it does not see the other images."""
        if self.manager.single_pass:
            return []
        return [task for task, (rows, _) in labels.items() if task in self.needs_two and rows.numel() == 1]

    def _shares(
        self, counts: Sequence[Mapping[str, torch.Tensor]], alone: Sequence[Sequence[str]]
    ) -> tuple[list[dict[str, float]], list[str]]:
        """Each part's share of every task's valid pixels in the whole step, and the tasks that have any.

        `counts` are the parts' `valid_pixels`. Counts the samples that are skipped: those whose label has no valid pixel
        at all, and those left out as `alone`.
        """
        own = [[int(c[task].sum()) for c in counts if task in c] for task in self.kinds]
        empty = [[int((c[task] == 0).sum()) for c in counts if task in c] for task in self.kinds]
        empty = [[*found, *(task in tasks for tasks in alone)] for task, found in zip(self.kinds, empty, strict=True)]
        sums = torch.tensor([[sum(x) for x in own], [sum(x) for x in empty]], dtype=torch.float64)
        valid, skipped = (dict(zip(self.kinds, row, strict=True)) for row in total(sums).tolist())
        for task, number in skipped.items():
            self.skipped[task] += int(number)
        shares = [{t: int(c.sum()) / valid[t] for t, c in count.items() if valid[t]} for count in counts]
        return shares, [task for task, number in valid.items() if number]


class _Sum:
    """The plain update: one backward pass per part on the weighted sum of losses."""

    def __init__(self, model: JointModel, optim_wrapper: UpdateWrapper, tasks: list[str]) -> None:
        self.model, self.optim_wrapper, self.tasks = model, optim_wrapper, tasks

    def add(self, losses: Mapping[str, torch.Tensor], added: Sequence[torch.Tensor], penalties: bool) -> None:
        weighting = self.model.weighting
        terms = [*(weighting.factor(task) * loss for task, loss in losses.items()), *added]
        if penalties:
            terms += [p for p in (weighting.penalty(t) for t in self.tasks) if isinstance(p, torch.Tensor)]
        if terms:
            self.optim_wrapper.backward(torch.stack([t.reshape(()) for t in terms]).sum())

    def finish(self, seed: int) -> None:
        sum_gradients([p for _, p in self.model.trained()])


class _CombinedGradients:
    """A gradient per task; those on weights that several tasks use are combined by the weighting."""

    def __init__(self, model: JointModel, optim_wrapper: UpdateWrapper, tasks: list[str]) -> None:
        self.model, self.tasks = model, tasks
        self.parameters = [p for _, p in model.trained()]
        self.rows: dict[str, list[torch.Tensor | None]] = {task: [None] * len(self.parameters) for task in tasks}
        self.added: list[torch.Tensor | None] = [None] * len(self.parameters)

    def add(self, losses: Mapping[str, torch.Tensor], added: Sequence[torch.Tensor], penalties: bool) -> None:
        for loss in added:
            if loss.requires_grad:
                found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
                self.added = _sums(self.added, found)
        for task, row in task_gradients(losses, self.parameters).items():
            factor = float(self.model.weighting.factor(task))
            self.rows[task] = _sums(self.rows[task], [None if g is None else factor * g for g in row])

    def finish(self, seed: int) -> None:
        rows = [sum_tensors(self.rows[task], self.parameters) for task in self.tasks]
        users = [[row[i] for row in rows if row[i] is not None] for i in range(len(self.parameters))]
        shared = [i for i, found in enumerate(users) if len(found) > 1]
        for parameter, found in zip(self.parameters, users, strict=True):
            parameter.grad = found[0] if found else None
        if shared:
            flat = torch.stack([flatten(row, self.parameters, shared) for row in rows])
            pieces = self.model.weighting.aggregate(flat, seed).split([self.parameters[i].numel() for i in shared])
            for i, piece in zip(shared, pieces, strict=True):
                self.parameters[i].grad = piece.view_as(self.parameters[i])
        if self.model.declared:  # they are of no task, and conflict with none
            every = sum_tensors(self.added, self.parameters)
            for parameter, gradient in zip(
                self.parameters, _sums([p.grad for p in self.parameters], every), strict=True
            ):
                parameter.grad = gradient


def _sums(rows: Sequence[torch.Tensor | None], more: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Their sums, one by one; None counts as zeros."""
    return [o if g is None else g if o is None else o + g for o, g in zip(rows, more, strict=True)]


def _named(loss: str) -> str:
    """The name of a declared loss beside those of tasks, which hold no slash."""
    return f"penalty/{loss}"


def task_gradients(
    losses: Mapping[str, torch.Tensor], parameters: Sequence[nn.Parameter]
) -> dict[str, list[torch.Tensor | None]]:
    """The gradient of each loss for each parameter; None where the loss does not depend on it."""
    names = list(losses)
    return {
        task: list(torch.autograd.grad(losses[task], parameters, retain_graph=task != names[-1], allow_unused=True))
        for task in names
    }


def flatten(row: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor], places: Sequence[int]) -> torch.Tensor:
    """The gradients at `places` in one vector, zeros where there is none."""
    parts = [row[i] for i in places]
    return torch.cat(
        [torch.zeros_like(like[i]).flatten() if g is None else g.flatten() for i, g in zip(places, parts, strict=True)]
    )


def sums_dtype(device: torch.device) -> torch.dtype:
    """What losses and counts are summed in: float64 where the device has it, which Apple's GPUs have not."""
    return torch.float32 if device.type == "mps" else torch.float64


def _rows(output: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The rows of an output; all of them in order are the output itself."""
    if len(rows) == len(output) and bool((rows == torch.arange(len(rows), device=rows.device)).all()):
        return output
    return output[rows.to(output.device, non_blocking=True)]
