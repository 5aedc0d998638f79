"""The fitting pass: what a method chooses by a task's training data before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mtpeft.backbones.site import CHANGED, Site
from mtpeft.errors import ConfigError, DataError
from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.installation import Installation
from mtpeft.hooks.runtime import Context, Runtime, Selection
from mtpeft.manager.features import apply_head, extract
from mtpeft.manager.image_sizes import check_images
from mtpeft.sharing.bank import Bank

#: of the head's output and a batch's labels
Loss = Callable[[Any, torch.Tensor], torch.Tensor]
See = Callable[[str, torch.Tensor, torch.Tensor], None]
#: the selection of a pass in which no method acts
NOBODY = Selection(("",))


def fit(manager: Any, task: str, loader: Iterable[Any], loss: Loss | None) -> None:
    """Fit every attached method that asks for it and is not yet fitted for `task`, one after the other.

    Modes, gradients, random numbers and the backbone are as before. Raises `ConfigError` where nothing is left to fit,
    `DataError` without a batch.
    """
    asking = [attachment for attachment in manager.methods if attachment.needs_fit(task)]
    if not asking:
        raise ConfigError(f"task {task!r} has nothing to fit: its methods ask for no data, or were fitted before")
    if not isinstance(loader, Iterable):
        raise ConfigError(f"task {task!r}: fit needs its training data, batches of (images, labels), got {loader!r}")
    for attachment in asking:
        data = _Data(manager, attachment, task, loader, loss)

        def run(bank: Bank, attachment: Attachment = attachment, data: _Data = data) -> None:
            attachment.spec.module.fit(attachment.config, dict(bank.sites.items()), data)
            bank.set_fitted()

        with _plain(manager):
            attachment.weights.fit(task, run)


class _Data:
    """`mtpeft.methods.task_data.TaskData` of one task for one attachment."""

    def __init__(
        self, manager: Any, attachment: Attachment, task: str, loader: Iterable[Any], loss: Loss | None
    ) -> None:
        self.manager, self.attachment, self.task, self.loader = manager, attachment, task, loader
        self.sites: dict[str, Site] = {site.key: site for site in attachment.selected}
        self._loss = loss
        self._device = next(iter(manager.backbone.parameters())).device

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        some = False
        for batch in self.loader:
            pair = batch[:2] if isinstance(batch, (tuple, list)) else ()
            if len(pair) < 2 or not all(isinstance(part, torch.Tensor) for part in pair):
                raise DataError(
                    f"task {self.task!r}: fit takes batches of (images, labels), got {type(batch).__name__}"
                )
            check_images(_view(self.manager, Runtime()), pair[0])
            some = True
            yield pair[0].to(self._device), pair[1].to(self._device)
        if not some:
            raise DataError(f"task {self.task!r}: the data of fit hold no batch")

    def watch(self, images: torch.Tensor, see: See) -> None:
        foreign = sorted({site.kind for site in self.attachment.selected if site.style not in CHANGED})
        if foreign:
            raise ConfigError(f"method {self.attachment.spec.name!r}: fit cannot watch the sites {', '.join(foreign)}")
        with torch.no_grad():
            self._features(images, {"pooled"}, _Watch(self.attachment, see))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self._features(images, {"pooled"})["pooled"]
        return pooled

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        manager, name = self.manager, self.attachment.spec.name
        if manager.feature_dim != manager.anatomy.feature_dim:
            raise ConfigError(
                f"method {name!r} is fitted by the task's loss, but the head reads features that the plain backbone has not"
            )
        if self._loss is None and (labels.ndim != 1 or labels.is_floating_point()):
            raise ConfigError(f"task {self.task!r}: its labels are no class numbers; give fit a loss=f(output, labels)")
        head = manager.head(self.task)
        output = apply_head(head, self._features(images, {getattr(head, "reads", "pooled")}))
        return (self._loss or nn.functional.cross_entropy)(output, labels)

    def _features(self, images: torch.Tensor, kinds: set[str], watch: _Watch | None = None) -> dict[str, Any]:
        manager, runtime = self.manager, Runtime()
        runtime.channels_last = manager.runtime.channels_last
        hooks = Installation(manager.anatomy, [] if watch is None else [watch], runtime)  # type: ignore[list-item]
        try:
            return extract(_view(manager, runtime), images, NOBODY, kinds)
        finally:
            hooks.remove()


class _Watch:
    """Stands for an attachment at its sites: tells of input and output, and gives the output back as it is."""

    def __init__(self, attachment: Attachment, see: See) -> None:
        self.spec, self.config, self.selected = attachment.spec, attachment.config, attachment.selected
        self.factory, self.see = SimpleNamespace(stream_blocks={}), see

    def __call__(self, key: str, context: Context, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.see(key, x, y)
        return y


def _view(manager: Any, runtime: Runtime) -> Any:
    """The manager as `extract` sees one without methods."""
    return SimpleNamespace(
        backbone=manager.backbone,
        anatomy=manager.anatomy,
        runtime=runtime,
        methods=[],
        training=False,
        frozen_part=None,
    )


@contextmanager
def _plain(manager: Any) -> Iterator[None]:
    """The backbone without hooks and with gradients, everything in evaluation mode; all as before afterwards."""
    modes = [(module, module.training) for module in manager.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in manager.backbone.parameters()]
    devices = {p.device.index or 0 for p, _ in needs if p.device.type == "cuda"}
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in needs:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.random.fork_rng(sorted(devices)), torch.enable_grad(), manager._installation.paused():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needs:
            parameter.requires_grad_(need)
