"""The modules of attached methods that are told of steps and epochs (see `mtpeft.methods.paced`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from mtpeft.manager.protocol import Managed
from mtpeft.methods.paced import Paced


def paced_modules(manager: Managed) -> list[Paced]:
    """Those of all tasks, in the order the methods were attached; none is looked for where no method says it has some."""
    return list(_paced(paced_sources(manager)))


def paced_sources(manager: Managed) -> list[nn.Module]:
    """The weights of the methods that say so."""
    return [attachment.weights for attachment in manager.methods if attachment.spec.module.paced]


def deleted_weights(modules: Iterable[nn.Module]) -> int:
    """How many of the weights of `modules` were deleted in training; those of frozen tasks do not count as trained anyway."""
    trained = (m for m in _paced(modules) if any(p.requires_grad for p in m.parameters()))
    return sum(module.deleted for module in trained)


def _paced(modules: Iterable[nn.Module]) -> Iterator[Paced]:
    for module in modules:
        for part in module.modules():
            if isinstance(part, Paced):
                yield part
