"""TaskManager: one frozen backbone, methods attached to it, and a set of weights and a head for every task."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mtpeft.backbones.anatomy import Anatomy
from mtpeft.backbones.fingerprint import fingerprint
from mtpeft.backbones.original import Original
from mtpeft.backbones.site import Stage
from mtpeft.errors import ConfigError, DataError, UnknownNameError
from mtpeft.heads import GrowingHead, Head
from mtpeft.heads.build import build_head, own_head
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.frozen import FrozenPart
from mtpeft.hooks.installation import Installation, carries_hooks
from mtpeft.hooks.runtime import Runtime, Selection
from mtpeft.manager.checkpoint import save
from mtpeft.manager.classes import check_classifier, learn_classes
from mtpeft.manager.counting import Counts, count, render_table
from mtpeft.manager.ensemble import ensembled
from mtpeft.manager.features import attention_over_time, extract
from mtpeft.manager.fitting import fit
from mtpeft.manager.groups import parameter_groups, weight_groups
from mtpeft.manager.image_sizes import check_images
from mtpeft.manager.memory import Memory, measure_memory
from mtpeft.manager.merging import merged_backbone
from mtpeft.manager.pace import deleted_weights, paced_modules, paced_sources
from mtpeft.manager.passes import a_task_each, every_task, one_task
from mtpeft.manager.weights import own_key, set_mode, trainable_parameters, trained_state, trained_state_by_task
from mtpeft.methods.group import Group
from mtpeft.options import check_options, shown
from mtpeft.sharing.generated import Generated

GROWING = "growing"
TASK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ \-]*")


class TaskManager(nn.Module):
    """The object users hold; made by `mtpeft.attach`.

    As a module it is `forward(images, task)`. `train()` keeps the frozen backbone in eval mode (dropout, drop path and
    batch norm statistics stay as pre-trained) unless `backbone_train_mode` was asked for.
    """

    def __init__(
        self,
        backbone: nn.Module,
        attachments: Sequence[Attachment],
        anatomy: Anatomy,
        backbone_train_mode: bool = False,
    ) -> None:
        """Freeze `backbone` and install the hooks; use `mtpeft.attach` rather than this."""
        super().__init__()
        if carries_hooks(backbone):
            raise ConfigError(
                "this backbone has methods attached already; detach() it first, or attach a list of methods"
            )
        if trains := [a.spec.name for a in attachments if a.spec.owned]:
            for attachment in attachments:
                if attachment.weights.reads_query:
                    raise ConfigError(
                        f"sharing {attachment.sharing_name!r} asks the frozen backbone about each image, and method "
                        f"{trains[0]!r} trains its weights: leave one of them out"
                    )
        self.backbone, self.anatomy = backbone, anatomy
        self.attachments = nn.ModuleList(attachments)
        self.heads = nn.ModuleDict()
        self.head_specs: dict[str, dict[str, Any]] = {}
        self.frozen_tasks: set[str] = set()
        self.forced = False  # loaded onto a backbone with another fingerprint, at the user's word
        self.frozen_part: FrozenPart | None = None  # of images that are given as rows (see `mtpeft.manager.rows`)
        self.runtime = Runtime()
        self.owned = {n for a in attachments if a.spec.owned for n in a.spec.owned(a.config, anatomy)}
        self.own_weights = bool(self.owned)
        self.trains_all = all(name in self.owned for name, _ in backbone.named_parameters())
        self.backbone_train_mode = backbone_train_mode or self.trains_all
        self._original = Original(backbone, self.owned)
        self.fingerprint = self._original.fingerprint
        try:
            self._installation = Installation(anatomy, list(attachments), self.runtime)
        except Exception:
            self._original.restore(backbone)
            raise
        self.train(backbone.training)

    # tasks --------------------------------------------------------------------------------------------------------

    @property
    def methods(self) -> list[Attachment]:
        """The attached methods, in the order they act."""
        return list(self.attachments)  # type: ignore[arg-type]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the order they were added."""
        return list(self.head_specs)

    def add_task(
        self,
        name: str,
        num_classes: int | None = None,
        head: str | nn.Module | dict[str, Any] = "linear",
        **options: Any,
    ) -> None:
        """Give a task weights and a head.

        `head` is a registered name (with its `options`), a config `{"name": ..., ...}`, or any module that takes the
        features; `backbone.get_classifier()` is copied, and the copy is what the task trains. `head="growing"` puts the
        classes behind those of all earlier growing tasks, which have the same options (`kind`, `scale`). The first task
        becomes the one used when the backbone is called directly (`set_task`).
        """
        if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
            raise ConfigError(f"task name {name!r}: use letters, digits, spaces, '_' and '-', as in 'birds'")
        if name in self.head_specs:
            raise ConfigError(f"task {name!r} exists already")
        if isinstance(head, dict):
            if "name" not in head:
                raise ConfigError(f"task {name!r}: head is {shown(head)}, expected a name, or a mapping with a 'name'")
            options = {**{k: v for k, v in head.items() if k != "name"}, **options}
            head = head["name"]
        if num_classes is not None:
            options["num_classes"] = num_classes
        module, spec = self._build_head(head, options)
        added: list[Any] = []
        try:
            for attachment in self.methods:
                attachment.weights.add_task(name)
                added.append(attachment)
            if isinstance(module, GrowingHead):
                module.grow(name, spec["num_classes"])
        except Exception:
            for attachment in added:  # no half of a task stays behind
                attachment.weights.remove_task(name)
            raise
        self.heads[GROWING if isinstance(module, GrowingHead) else own_key(name)] = module
        self.head_specs[name] = spec
        if GROWING in self.heads:
            self.heads[GROWING].training = self.training
        used = [part for a in self.methods for part in a.weights.modules_of(name)]
        self._settle([*used, *(module.used(name) if isinstance(module, GrowingHead) else [module])])
        if self.runtime.default is None:
            self.set_task(name)

    def needs_fit(self, name: str) -> bool:
        """Whether a method has to see the task's training data before its weights are used."""
        self._check(name)
        return any(attachment.needs_fit(name) for attachment in self.methods)

    def fit(
        self,
        name: str,
        loader: Iterable[Any],
        loss: Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Show the methods that ask for it the task's training data; until then its weights cannot be used or trained.

        `loader` gives batches (images, labels), more than once where several methods ask; `loss(output, labels)` is the
        task's, by default cross-entropy. What is chosen is part of the weights, and is chosen once: weights that tasks share
        by the data of the first. Raises `ConfigError` where nothing is left to fit.
        """
        self._check(name)
        fit(self, name, loader, loss)

    def learn_classes(self, name: str, loader: Iterable[Any]) -> None:
        """Show the classifier of a growing head the training images of a task, batches (images, labels) without augmentation.

        Labels are the task's columns among all classes. From then on, in eval mode, it scores them (`head="growing",
        classifier=dict(name=...)`); until all tasks are learnt the head's own parts do.
        """
        self._check(name)
        learn_classes(self, name, loader)

    def remove_task(self, name: str) -> None:
        """Forget a task, its weights and its head."""
        self._check(name)
        if self.head_specs[name]["name"] == GROWING:
            self.heads[GROWING].shrink(name)  # type: ignore[operator]
            if len(self.heads[GROWING].parts) == 0:  # type: ignore[arg-type]
                del self.heads[GROWING]
        else:
            del self.heads[own_key(name)]
        for attachment in self.methods:
            attachment.weights.remove_task(name)
        del self.head_specs[name]
        self.frozen_tasks.discard(name)
        if self.runtime.default == name:
            self.runtime.set_default(next(iter(self.head_specs), None))

    def freeze_task(self, name: str, frozen: bool = True) -> None:
        """Stop (or with `frozen=False` resume) training of what belongs to the task alone: its own weights and head.

        The state survives save and load. Weights shared with other tasks stay trainable.
        """
        self._check(name)
        (self.frozen_tasks.add if frozen else self.frozen_tasks.discard)(name)
        for module in self._own_modules(name):
            module.requires_grad_(not frozen)

    def set_task(self, name: str) -> None:
        """Choose the task whose weights the backbone uses when it is called directly."""
        self._check(name)
        self.runtime.set_default(name)

    def head(self, name: str) -> nn.Module:
        """The module that turns features into the task's output."""
        self._check(name)
        return self.heads[GROWING if self.head_specs[name]["name"] == GROWING else own_key(name)]

    # forward ------------------------------------------------------------------------------------------------------

    def forward(self, images: torch.Tensor, task: str | Sequence[str] | None = None) -> Any:
        """Outputs of one task, or of a batch in which every image has a task of its own.

        `images` (B, C, H, W), clips (B, C, T, H, W), or rows (see `mtpeft.FeatureCache`). With a name (or None: the
        task of `set_task`) returns the head's output. With one name per image returns {task: (indices (n,) into the
        batch, output of those n images)}, from one backbone pass. In eval mode a source of several members (`averaged`)
        gives their common prediction, a pass for each.
        """
        check_images(self, images)
        return self.ensembled(lambda: self._forward(images, task))

    def _forward(self, images: torch.Tensor, task: str | Sequence[str] | None) -> Any:
        if task is None or isinstance(task, str):
            return one_task(self, images, self._default(task))
        names = list(task)
        if len(names) != images.shape[0]:
            raise DataError(f"{len(names)} task names for a batch of {images.shape[0]} images; give one name per image")
        distinct = tuple(dict.fromkeys(names))
        for name in distinct:
            self._check(name)
        return self.forward_indexed(images, distinct, torch.tensor([distinct.index(name) for name in names]))

    def forward_indexed(self, images: torch.Tensor, tasks: Sequence[str], index: torch.Tensor) -> dict[str, Any]:
        """As `forward` with one task per image, given as `index` (B,) into `tasks`; compiles to one graph.

        An index on the CPU, whatever the images' device, spares a GPU the wait until its value is known.
        """
        return self.ensembled(lambda: a_task_each(self, images, tasks, index))

    def forward_tasks(self, images: torch.Tensor, tasks: Sequence[str]) -> dict[str, Any]:
        """Several tasks for every image: {task: output}.

        One backbone pass where the methods allow it (shared weights, task streams), else one per task, under weights
        that are generated for all of them at once.
        """
        check_images(self, images)
        for name in tasks:
            self._check(name)
        return self.ensembled(lambda: every_task(self, images, tasks))

    def ensembled(self, run: Callable[[], Any]) -> Any:
        """In eval mode: what `run` gives under every member of the weight sources, combined (see `mtpeft.manager.ensemble`).

        In training `run` is called once, under the trained weights.
        """
        self.runtime.declared = {}
        return run() if self.training else ensembled(self, run)

    def features(self, images: torch.Tensor, task: str | None = None) -> torch.Tensor:
        """Pooled features (B, feature_dim) of one task, under the trained weights; of clips the mean over their frames."""
        check_images(self, images)
        self.runtime.declared = {}
        return extract(self, images, Selection((self._default(task),)), ("pooled",))["pooled"]

    def temporal_attention(self, clips: torch.Tensor, task: str | None = None) -> dict[int, torch.Tensor]:
        """By block, where a method attends over time: (B, T, T), which frame (row) attends to which, rows sum to 1.

        Averaged over tokens and heads; clips are (B, C, T, H, W).
        """
        check_images(self, clips)
        return attention_over_time(self, clips, Selection((self._default(task),)))

    def frame_weights(self, clips: torch.Tensor, task: str | None = None) -> torch.Tensor | None:
        """What each frame counts for the task's head, (B, T), rows sum to 1; None where it does not weigh them."""
        check_images(self, clips)
        name = self._default(task)
        head = self.head(name)
        if not isinstance(head, Head):
            return None
        return head.frame_weights(extract(self, clips, Selection((name,)), ("frames",))["frames"])

    @property
    def feature_dim(self) -> int:
        """Width of the pooled features heads get."""
        dim = self.anatomy.feature_dim
        for attachment in self.methods:
            dim = attachment.feature_dim(dim)
        return dim

    @property
    def stages(self) -> Sequence[Stage]:
        """The maps heads of several scales get, finest first."""
        stages: Sequence[Stage] = self.anatomy.stages
        for attachment in self.methods:
            stages = attachment.head_scales(stages)
        return stages

    def train(self, mode: bool = True) -> TaskManager:
        """Training mode for methods and heads; the backbone follows only when it is trained or was asked to.

        Frozen layers with running statistics (batch norm) stay in eval mode even then.
        """
        set_mode((self.attachments, self.heads), mode)
        self.training = mode
        self.backbone.train(mode and self.backbone_train_mode)
        if mode and self.backbone_train_mode and not self.trains_all:
            for module in self.backbone.modules():
                if isinstance(module, _NormBase) and not any(p.requires_grad for p in module.parameters(recurse=False)):
                    module.eval()  # its statistics stay as pre-trained
        return self

    # steps and epochs ---------------------------------------------------------------------------------------------

    def before_step(self) -> None:
        """A training step begins. Some methods draw random numbers for it; most have nothing to do here.

        Both engines call this and the two methods below; a loop of one's own does where a method is to have its say.
        """
        for module in paced_modules(self):
            module.before_step()

    def after_backward(self) -> None:
        """The gradients of a step are there, before they are clipped and used. Some methods score their weights by them."""
        for module in paced_modules(self):
            module.after_backward()

    def after_epoch(self) -> None:
        """An epoch has ended, its last optimiser step included. Some methods delete the weights they scored lowest."""
        for module in paced_modules(self):
            module.after_epoch()

    def penalties(self) -> dict[str, torch.Tensor]:
        """What the weight sources add to the loss of the last forward, scalars by name; none after one of evaluation.

        They are the mean over its images, or have no images in them. Both engines add them to the task's loss.
        """
        return {name: torch.stack(found).mean() for name, found in self.runtime.declared.items()}

    def penalty(self) -> torch.Tensor:
        """The sum of `penalties`, for the loss of a training loop of one's own; 0 where there are none."""
        found = list(self.penalties().values())
        return torch.stack(found).sum() if found else next(self.backbone.parameters()).new_zeros(())

    # accounting, merging, leaving ---------------------------------------------------------------------------------

    def counts(self, task: str) -> Counts:
        """Numbers of weights task `task` uses, by kind."""
        self._check(task)
        return count(self, task)

    def num_trainable(self, task: str | None = None, heads: bool = True) -> int:
        """Trainable weights of one task (shared ones included), or of all tasks together, each weight once."""
        if task is not None:
            counts = self.counts(task)
            return counts.total if heads else counts.total - counts.head
        skipped = set() if heads else set(self.heads.parameters())
        found = sum(p.numel() for _, p in self.trainable_parameters() if p not in skipped)
        return found - deleted_weights(paced_sources(self))

    def table(self, width: int = 80) -> str:
        """Tables of weights per task by kind, and of bytes in training, with their rules, in lines of up to `width` characters.

        Tasks that are not alike are run on a few images each, to see what they keep for backward.
        """
        return render_table(self, width)

    def memory(self, task: str) -> Memory:
        """Bytes that training `task` keeps: weights, gradients, AdamW's state, activations of each image of the model's size."""
        self._check(task)
        return measure_memory(self, [task])[task]

    def trainable_parameters(self, task: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained; with `task`, those the task uses."""
        return trainable_parameters(self, task)

    def parameter_groups(
        self, lr: float, task: str | None = None, head_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """What is trained, as a torch optimiser takes it, with the rates and the weight decay that the methods declare.

        `lr` is the rate they are multiples of; with `task`, the weights it uses.
        """
        return parameter_groups(self.trainable_parameters(task), self.weight_groups(task), lr, head_lr)

    def weight_groups(self, task: str | None = None) -> dict[nn.Parameter, Group]:
        """The group of every weight (of those the task uses) for which a method declares one."""
        return weight_groups(self, task)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Everything that is trained or mutated, by name: methods, heads, and the backbone where it is trained."""
        return trained_state(self)

    def trained_state_by_task(self, tasks: Iterable[str] | None = None) -> dict[str, dict[str, torch.Tensor]]:
        """`trained_state` in groups: what belongs to no task alone under "", and what each of `tasks` (all) has alone."""
        return trained_state_by_task(self, tasks)

    def used_modules(self, task: str) -> list[nn.Module]:
        """The modules whose weights the task's output depends on, its head among them."""
        backbone = [self.backbone] if self.own_weights else []
        used = [module for a in self.methods for module in a.weights.modules_of(task)]
        head = self.head(task)
        common = head.used(task) if isinstance(head, GrowingHead) else []
        return [*self._own_modules(task), *common, *used, *backbone]

    @property
    def isolated(self) -> bool:
        """Whether training one task leaves every other task's outputs as they are."""
        return not self.own_weights and all(a.weights.isolated or not a.selected for a in self.methods)

    @property
    def single_pass(self) -> bool:
        """Whether one pass of the backbone over an image serves all tasks."""
        return all(a.weights.single_pass or not a.selected for a in self.methods)

    def backbone_unchanged(self) -> bool:
        """Whether the backbone's weights still have the hash they had when the methods were attached."""
        return fingerprint(self.backbone) == self.fingerprint

    def merge(self, task: str) -> nn.Module:
        """A new plain timm model with the task's weights folded in, and its head where that is linear.

        Raises `ConfigError` naming the method when one attached does not fold.
        """
        self._check(task)
        with self._unhooked():
            return merged_backbone(self, task)

    def to_per_task(self) -> None:
        """Freeze generated weights (Hyperformer, Polyhistor) to plain ones of each task, and drop their hypernetworks.

        Outputs stay as they are; from here on the tasks are trained, saved and loaded apart. Tasks added later start anew.
        """
        generated = [a for a in self.methods if isinstance(a.weights, Generated)]
        if not generated:
            raise ConfigError(f"nothing is generated: the sharing is {[a.sharing_name for a in self.methods]}")
        for attachment in generated:
            attachment.to_per_task(self.tasks)
        self._settle(self.methods)
        for name in self.frozen_tasks:
            self.freeze_task(name)

    def detach(self) -> nn.Module:
        """Remove every hook and give the backbone back as it was: the same object, the same bits."""
        self._installation.remove()
        self._original.restore(self.backbone)
        return self.backbone

    def save(self, path: Any) -> None:
        """Write the trained weights and a manifest into folder `path` (see `mtpeft.manager.checkpoint`)."""
        save(self, path)

    # inside -------------------------------------------------------------------------------------------------------

    def _build_head(self, head: Any, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
        if not isinstance(head, str):
            return own_head(head, self.backbone), {"name": "custom", "class": type(head).__qualname__}
        if head != GROWING:
            module, options = build_head(head, options, self.anatomy, self.feature_dim, self.stages)
            return module, {"name": head, **options}
        size = {key: value for key, value in options.items() if key == "num_classes"}
        common = {key: value for key, value in options.items() if key not in size}
        common = check_options(f"head {head!r}", GrowingHead, common, given=("dim",), others=("num_classes",))
        size = check_options(f"head {head!r}", GrowingHead.grow, size, given=("self", "task"))
        if GROWING not in self.heads:
            growing = GrowingHead(self.feature_dim, **common)
            if growing.classifier is not None:
                check_classifier(self, growing.classifier)
            return growing, {"name": head, **common, **size}
        before: Any = self.heads[GROWING]
        if GrowingHead.described(**common) != before.options:
            raise ConfigError(
                f"head {head!r}: all tasks share one, which was made with {shown(before.options)}: give the same"
            )
        return before, {"name": head, **common, **size}

    def _own_modules(self, task: str) -> list[nn.Module]:
        head = self.head(task)
        own: list[nn.Module] = [head.part(task) if isinstance(head, GrowingHead) else head]
        return own + [module for a in self.methods for module in a.weights.own_modules(task)]

    def _settle(self, modules: Iterable[nn.Module]) -> None:
        """Give new modules the backbone's device and precision, and the mode of the manager."""
        reference = next(self.backbone.parameters())
        dtype = reference.dtype if reference.dtype.is_floating_point else None
        for module in modules:
            module.to(device=reference.device, dtype=dtype).train(self.training)

    def _default(self, task: str | None) -> str:
        name = self.runtime.default if task is None else task
        if name is None:
            raise ConfigError("no task has been added yet; add_task(name, num_classes=...) first")
        self._check(name)
        return name

    def _check(self, name: str) -> None:
        if name not in self.head_specs:
            raise UnknownNameError("task", name, self.head_specs)

    def _unhooked(self) -> Any:
        return self._installation.paused()
