"""Queries: what the backbone without any method makes of each image, for sources that choose weights by the image."""

from __future__ import annotations

from typing import Any

import torch

from mtpeft.hooks.attachment import Attachment
from mtpeft.hooks.runtime import Selection
from mtpeft.manager.image_sizes import fold, frames_of, wrong_size
from mtpeft.manager.protocol import Managed
from mtpeft.sharing.query import Query

#: the key of a forward's queries among what is prepared for it
QUERY = "query"


def asking(manager: Managed) -> list[Attachment]:
    """The methods whose weights are chosen by the image."""
    return [attachment for attachment in manager.methods if attachment.weights.reads_query]


@torch.no_grad()
def query_of(manager: Managed, images: torch.Tensor) -> torch.Tensor:
    """Pooled features (B, d) of images, of clips (their mean over frames), or of rows, by the backbone in eval mode alone.

    Raises `DataError` where the backbone cannot take images of that size.
    """
    if images.ndim == 2:
        assert manager.frozen_part is not None
        return manager.frozen_part.query(images)
    backbone: Any = manager.backbone
    context, manager.runtime.context = manager.runtime.context, None
    modes = [(module, module.training) for module in backbone.modules()] if backbone.training else []
    folded = fold(images)
    if manager.runtime.channels_last:
        folded = folded.contiguous(memory_format=torch.channels_last)
    try:
        for module, _ in modes:
            module.training = False
        pooled: torch.Tensor = backbone.forward_head(backbone.forward_features(folded), pre_logits=True)
    except (RuntimeError, AssertionError, ValueError) as error:
        own, given = manager.anatomy.image_size, tuple(images.shape[-2:])
        if given == own:
            raise
        raise wrong_size(backbone, own, given, error) from error
    finally:
        manager.runtime.context = context
        for module, mode in modes:
            module.training = mode
    return pooled.unflatten(0, (-1, frames_of(images))).mean(1) if images.ndim == 5 else pooled


def selected(
    manager: Managed, selection: Selection, features: torch.Tensor | None, count: int, batch: int
) -> dict[Any, Any]:
    """What every source that asks makes of the queries `features` (`count`, d), by attachment; none without any.

    A `batch` of more images is filled up with copies of the first one. In training the losses that sources declare wait in the
    runtime.
    """
    if features is None:
        return {}
    if batch > count:
        features = torch.cat([features, features[:1].expand(batch - count, -1)])
    learning = manager.training and torch.is_grad_enabled() and not manager.runtime.trial
    query = Query(features, count, manager.training, learning)
    found = {a: a.weights.select(selection.tasks, selection.index, query) for a in asking(manager)}
    if learning:
        for attachment, choice in found.items():
            for name, loss in attachment.weights.losses(choice).items():
                manager.runtime.declared.setdefault(name, []).append(loss)
    return found
