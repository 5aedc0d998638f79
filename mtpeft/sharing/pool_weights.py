"""The weights of a site for every image of a batch, out of the sets of a pool and what each image chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mtpeft.sharing.beside import axes_of, side_by_side
from mtpeft.sharing.pool_sets import PoolSet


@dataclass(frozen=True, eq=False)
class Chosen:
    """The sets (P, B, k) of every image, by position. `alike`: all images have the same ones.

    `own` (B, M): those it trains where other images of the batch train others.
    """

    index: torch.Tensor
    own: torch.Tensor | None = None
    alike: bool = False


@dataclass(frozen=True, eq=False)
class Mixed:
    """What every set counts for every image (P, B, M). `own` as for `Chosen`."""

    weights: torch.Tensor
    own: torch.Tensor | None = None


def site_weights(
    sets: Sequence[PoolSet],
    trained: Sequence[bool],
    choice: Chosen | Mixed,
    key: str,
    group: int,
    cache: dict[Any, Any],
) -> dict[str, torch.Tensor]:
    """What site `key` of each image has in place of a bank's tensors, by their names: (B, ...), or (1, ...) of all alike.

    `cache` keeps what several sites share. Buffers are those of the first set: what is not trained is the same in all.
    """
    template = sets[0].bank
    batch = 1 if isinstance(choice, Chosen) and choice.alike else _choices(choice).shape[1]
    found: dict[str, torch.Tensor] = {}
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in template.tensors(key).items():
        if not isinstance(tensor, nn.Parameter):
            found[name] = tensor.expand(batch, *tensor.shape)
            continue
        place = "pool", id(template), name
        if place in cache:
            parts[name] = cache[place]
            continue
        own = [made.bank.tensors(key)[name] for made in sets]
        stack = torch.stack([t if live else t.detach() for t, live in zip(own, trained, strict=True)])
        parts[name] = mixed(stack, choice, group) if isinstance(choice, Mixed) else chosen(stack, choice, group)
        if name.startswith("model."):
            cache[place] = parts[name]
    if isinstance(choice, Chosen):
        number = choice.index.shape[-1]
        axes = axes_of(template, key) if number > 1 else None
        if number == 1:
            parts = {name: part[:, 0] for name, part in parts.items()}
        elif axes is None:
            parts = {name: part.mean(1) for name, part in parts.items()}
        else:
            sides = [{name: part[:, i] for name, part in parts.items()} for i in range(number)]
            parts = side_by_side(axes, sides, lead=1)
    return {name: found.get(name, parts.get(name)) for name in template.tensors(key)}  # type: ignore[misc]


def _choices(choice: Chosen | Mixed) -> torch.Tensor:
    return choice.index if isinstance(choice, Chosen) else choice.weights


def chosen(stack: torch.Tensor, choice: Chosen, group: int) -> torch.Tensor:
    """A weight of all sets (M, ...) -> of those each image chose: (B, k, ...), (1, k, ...) of all alike."""
    index = choice.index[group, :1] if choice.alike else choice.index[group]
    parts = stack.index_select(0, index.flatten()).unflatten(0, index.shape)
    if choice.own is None:
        return parts
    own = choice.own.gather(1, index)
    return torch.where(own.view(*own.shape, *[1] * (stack.ndim - 1)), parts, parts.detach())


def mixed(stack: torch.Tensor, choice: Mixed, group: int) -> torch.Tensor:
    """A weight of all sets (M, ...) -> each image's sum of them: (B, ...)."""
    weights, flat = choice.weights[group], stack.reshape(len(stack), -1)
    with torch.autocast(stack.device.type, enabled=False):
        if choice.own is None:
            summed = weights @ flat
        else:
            own = choice.own.to(weights)
            summed = (weights * own) @ flat + (weights * (1 - own)) @ flat.detach()
    return summed.reshape(-1, *stack.shape[1:])
